"""Keep inspections on disk, so that an architecture that was looked at once prints at once.

What is kept is the record, tables as JSON, never anything that could run. It is found again by a
hash of all that the blocks follow from: the module classes with their source files and settings,
names, shapes and types of the tensors, the example's form, and what looks at them. Weights are no
part of it, so that nothing that depends on weights or data may be kept.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import inspect
import io
import json
import os
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ensemble_view.data.opening import default_root
from ensemble_view.discovery.capture import Example
from ensemble_view.discovery.granularity import Granularity
from ensemble_view.studies.inspect.inspection import Inspection
from ensemble_view.study.subject import installed_versions

__all__ = ["architecture_key", "cached_inspection"]

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, enum.Enum, type(None))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_DEPTH = 6
# Whole numbers beyond this are addresses or hashes, which every process has its own of.
_LARGEST = 2**40


def cached_inspection(
    model: nn.Module,
    example: Example,
    look: Callable[[], Inspection],
    *,
    plain: bool = False,
    granularity: Granularity = "block",
    fresh: bool = False,
) -> Inspection:
    """Give the inspection of an architecture from the cache, or look and keep it.

    Args:
        model: What is inspected.
        example: What it is called with.
        look: Inspects it, without data.
        plain: As for :func:`ensemble_view.unravel`.
        granularity: As for :func:`ensemble_view.unravel`.
        fresh: Look anew, and keep that.

    Returns:
        The inspection.
    """
    key = architecture_key(model, example, plain=plain, granularity=granularity)
    if key is None:
        return look()
    file = default_root() / "inspections" / f"{key}.json"
    if not fresh:
        kept = _read(file)
        if kept is not None:
            return kept
    found = look()
    _write(file, found)
    return found


def architecture_key(
    model: nn.Module, example: Example, *, plain: bool, granularity: Granularity
) -> str | None:
    """Hash all that an architecture's blocks follow from.

    Args:
        model: Any module.
        example: What it is called with.
        plain: Whether units of a plain net are looked for.
        granularity: Which sums make a block.

    Returns:
        Hexadecimal digits, or None for a class whose source is in no file: its code cannot be told
        from other code of the same name.

    Example:
        >>> layer, rows = nn.Linear(3, 3), torch.ones(1, 3)
        >>> first = architecture_key(layer, rows, plain=False, granularity="block")
        >>> layer.weight.data.zero_()
        tensor(...)
        >>> first == architecture_key(layer, rows, plain=False, granularity="block")
        True
    """
    classes = {cls for module in model.modules() for cls in _own_classes(type(module))}
    files: set[Path] = set()
    for cls in classes:
        found = set(_source_files(cls))
        if not found:
            return None
        files |= found
    packages = {cls.__module__.partition(".")[0] for cls in classes}
    leaves, form = pytree.tree_flatten(example)
    seen: dict[int, int] = {}
    content = [
        plain,
        granularity,
        str(form),
        [_described(leaf, {}) for leaf in leaves],
        sorted(installed_versions({"torch", "ensemble-view", *packages}).items()),
        sorted(map(_digest, {*files, *_beside(files), *_own_files()})),
        [
            (path, type(module).__module__, type(module).__qualname__, _settings(module, seen))
            for path, module in model.named_modules(remove_duplicate=False)
        ],
        [
            (path, _described(tensor, {}), seen.setdefault(id(tensor), len(seen)))
            for named in (model.named_parameters, model.named_buffers)
            for path, tensor in named(remove_duplicate=False)
        ],
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _own_classes(cls: type) -> list[type]:
    """A module's class and its bases, without what every module has."""
    return [base for base in cls.__mro__ if base not in nn.Module.__mro__]


def _source_files(cls: type) -> Iterator[Path]:
    for value in vars(cls).values():
        code = getattr(inspect.unwrap(value) if callable(value) else value, "__code__", None)
        if code is not None and Path(code.co_filename).is_file():
            yield Path(code.co_filename).resolve()
    loaded = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if loaded is not None and Path(loaded).is_file() and cls.__module__ != "__main__":
        yield Path(loaded).resolve()


def _beside(files: set[Path]) -> set[Path]:
    """What a user's own files may import from beside them; a library is told by its version."""
    libraries = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib")]
    folders = {
        file.parent
        for file in files
        if not any(file.is_relative_to(library) for library in libraries)
    }
    if not folders:
        return set()
    loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    return {
        path
        for path in (Path(name).resolve() for name in loaded if name and name.endswith(".py"))
        if path.parent in folders and path.is_file()
    }


def _own_files() -> list[Path]:
    return sorted(Path(__file__).resolve().parents[2].rglob("*.py"))


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _settings(module: nn.Module, seen: dict[int, int]) -> Any:
    """A module's own attributes, and the hooks that take part in its calls."""
    bare = vars(nn.Module())
    values = {name: value for name, value in vars(module).items() if name not in bare}
    values |= {name: list(vars(module).get(name, {}).values()) for name in _HOOKS}
    return _described(values, seen)


def _described(value: Any, seen: dict[int, int], depth: int = _DEPTH) -> Any:
    """What a value is, in words that another process would use as well."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "an address or a hash"
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if id(value) in seen:
        return f"{name} {seen[id(value)]}"
    if isinstance(value, nn.Module) or depth == 0:
        return name
    if isinstance(value, list | tuple):
        return [name, *(_described(item, seen, depth - 1) for item in value)]
    if isinstance(value, set | frozenset):
        return [name, *sorted(str(_described(item, seen, depth - 1)) for item in value)]
    if isinstance(value, Mapping):
        return [name, *([str(k), _described(v, seen, depth - 1)] for k, v in value.items())]
    if isinstance(value, functools.partial):
        parts = (value.func, value.args, value.keywords)
        return [name, *(_described(part, seen, depth - 1) for part in parts)]
    if hasattr(value, "__qualname__"):
        return f"{name} {getattr(value, '__module__', '')}.{value.__qualname__}"
    # A configuration, for example, that all layers share.
    seen[id(value)] = len(seen)
    return [name, _described(getattr(value, "__dict__", {}), seen, depth - 1)]


def _write(file: Path, found: Inspection) -> None:
    record: dict[str, Any] = {}
    for field in dataclasses.fields(found):
        value = getattr(found, field.name)
        if isinstance(value, pd.DataFrame):
            table = json.loads(value.to_json(orient="split", index=False, double_precision=15))
            value = table | {"types": [str(kind) for kind in value.dtypes]}
        record[field.name] = value
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and moved, so that nobody ever reads half of it.
        with tempfile.NamedTemporaryFile(
            "w", dir=file.parent, suffix=".part", delete=False, encoding="utf-8"
        ) as part:
            json.dump(record, part)
        os.replace(part.name, file)
    except OSError:
        # Where nothing can be written, nothing is kept.
        return


def _read(file: Path) -> Inspection | None:
    """Read what was kept; None where nothing was or it is damaged."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        for name, value in record.items():
            if isinstance(value, dict):
                types = dict(zip(value["columns"], value["types"], strict=True))
                frame = pd.DataFrame(value["data"], columns=value["columns"], dtype=object)
                record[name] = frame.astype(types)
        found = Inspection(**record)
        io.StringIO().write(f"{found!r}{found.explain()}")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return found
