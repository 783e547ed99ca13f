"""Programs of ``torch.export`` (``.pt2``): a graph with its weights, and no Python class.

The graph keeps the paths of the modules that it was made of, so that ``torch.export.unflatten``
gives a module with those submodules. What was settled at the export stays settled: a batch size
that was not exported as dynamic, the training mode, the device of constants.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from ensemble_view.errors import CheckpointError, UnreadableError
from ensemble_view.nets.adapters.adapted import Adapted, Input
from ensemble_view.nets.adapters.libraries import loading
from ensemble_view.reading.archives import opened_zip, zip_names
from ensemble_view.reading.json_text import parse_json
from ensemble_view.reading.pickles import check_pickle

__all__ = ["adapt_exported", "is_exported", "read_exported"]

_OWNERS = re.compile(rb"\b(transformers(?:\.[a-z]\w*)+)\.[A-Z]\w*")
_MEMBERS = {"archive_format", "serialized_exported_program.json"}


def is_exported(path: Path) -> bool:
    """Say whether a file is a program of ``torch.export``, by its content.

    Args:
        path: A file.

    Returns:
        True if ``torch.export.save`` wrote it.
    """
    return any(Path(name).name in _MEMBERS for name in zip_names(path))


def read_exported(path: Path, *, trust_pickle: bool) -> ExportedProgram:
    """Read a program, which unpickles what lies in the file beside the graph.

    Args:
        path: A file that `is_exported`.
        trust_pickle: Whether it may run code of its own while it is read.

    Returns:
        The program.

    Raises:
        CheckpointError: If the file is not trusted, or is no complete program.
    """
    if not trust_pickle:
        raise CheckpointError(
            f"{path} is a program of torch.export, and reading it unpickles what lies in it, which "
            "could run any code: save a state_dict instead, or, if you trust the file, load it "
            "with --trust-pickle."
        )
    try:
        _check_pickles(path)
        _import_owners(path)
    except UnreadableError as error:
        raise CheckpointError(
            f"{path} is no complete program of torch.export ({error}): fetch or save it again."
        ) from error
    reasons: list[BaseException] = []

    def hear(record: logging.LogRecord) -> bool:
        reasons.extend(error for error in (record.exc_info or ())[1:2] if error is not None)
        return False

    # torch writes the reason to its log, and raises an error that only points there.
    log = logging.getLogger("torch.export")
    log.addFilter(hear)
    try:
        with loading(str(path), trust_pickle=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return torch.export.load(path)
            except RuntimeError as error:
                raise (reasons[0] if reasons else error) from error
    finally:
        log.removeFilter(hear)


def _check_pickles(path: Path) -> None:
    """Check what is pickled beside the graph, by itself or in an archive within the archive."""
    with opened_zip(path) as archive:
        names = archive.namelist()
        configs = [archive.read(name) for name in names if name.endswith("_config.json")]
        for name in names:
            if name.endswith(".json"):
                continue
            content = archive.read(name)
            if content.startswith(b"PK"):
                inner = zipfile.ZipFile(io.BytesIO(content))
                for part in inner.namelist():
                    if part.endswith(".pkl"):
                        check_pickle(inner.read(part))
            elif any(_is_pickled(Path(name).name, config) for config in configs):
                check_pickle(content)


def _is_pickled(name: str, config: bytes) -> bool:
    """Say whether a configuration of weights or constants has a file pickled."""
    found = parse_json(config.decode("utf-8", "replace"))
    entries = found.get("config") if isinstance(found, dict) else None
    values = entries.values() if isinstance(entries, dict) else ()
    return any(
        isinstance(each, dict) and each.get("path_name") == name and bool(each.get("use_pickle"))
        for each in values
    )


def _import_owners(path: Path) -> None:
    """Import the modules of transformers that a program's outputs are of, to make them known."""
    with opened_zip(path) as archive:
        for name in archive.namelist():
            if name.endswith(".json"):
                for module in set(_OWNERS.findall(archive.read(name))):
                    with contextlib.suppress(ImportError):
                        importlib.import_module(module.decode())


def adapt_exported(program: ExportedProgram, path: Path) -> Adapted:
    """Make a module of an exported program, with the module paths that it was exported with.

    Args:
        program: What the file holds.
        path: Its file.

    Returns:
        The module, with the shapes of the example that it was exported with.

    Raises:
        CheckpointError: If it computes for one batch size only, was exported in training mode, or
            cannot be made a module.
    """
    if any(_trains(node) for node in program.graph.nodes):
        raise CheckpointError(
            f"{path} was exported in training mode: call model.eval() before torch.export.export."
        )
    shapes = _input_shapes(program)
    if shapes and not any(isinstance(shape[0], torch.SymInt) for shape in shapes if len(shape)):
        raise CheckpointError(
            f"{path} was exported for batches of {shapes[0][0]} only: export it with "
            "dynamic_shapes that leave the first dimension open (torch.export.Dim.DYNAMIC), or "
            "take its weights alone by naming the architecture with --arch."
        )
    with loading(str(path), trust_pickle=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.export.unflatten(program)
    inputs = _inputs(program)
    image = len(inputs) == 1 and inputs[0] == Input(inputs[0].shape) and len(inputs[0].shape) == 3
    return Adapted(
        model,
        "torch.export",
        input_shape=inputs[0].shape if image else None,
        inputs=() if image else inputs,
    )


def _trains(node: fx.Node) -> bool:
    """Say whether an operation, such as dropout, was told that it is run in training."""
    schema: torch.FunctionSchema | None = getattr(node.target, "_schema", None)
    if schema is None:
        return False
    given = {
        **dict(zip((a.name for a in schema.arguments), node.args, strict=False)),
        **node.kwargs,
    }
    return any(given.get(name) is True for name in ("train", "training"))


def _input_shapes(program: ExportedProgram) -> list[torch.Size]:
    names = {
        spec.arg.name
        for spec in program.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    }
    values = [node.meta.get("val") for node in program.graph.nodes if node.name in names]
    return [value.shape for value in values if isinstance(value, Tensor)]


def _inputs(program: ExportedProgram) -> tuple[Input, ...]:
    """Return what the program takes, as the example in the file has it; nothing if it has none."""
    args, kwargs = cast(
        "tuple[tuple[Any, ...], dict[str, Any]]", program.example_inputs or ((), {})
    )
    leaves = [*((None, value) for value in args), *kwargs.items()]
    plain = all(isinstance(value, Tensor) and value.ndim for _, value in leaves)
    if not plain or (args and kwargs):
        return ()
    return tuple(
        Input(
            tuple(value.shape[1:]),
            name,
            None if value.is_floating_point() else int(value.max()) + 1,
        )
        for name, value in leaves
    )
