"""What every study starts from: a chain, data, and where both come from."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ensemble_view.core.chain import Chain
from ensemble_view.data.data import Data, Portion, examples_in
from ensemble_view.data.opening import as_data, open_data
from ensemble_view.data.target_data import TargetData
from ensemble_view.data.text_data import TextData
from ensemble_view.data.text_sources import DEFAULT_LENGTH, is_text, open_text
from ensemble_view.discovery.capture import ALL
from ensemble_view.discovery.granularity import Granularity
from ensemble_view.discovery.unravelling import unravel
from ensemble_view.errors import DataError, DiscoveryError, MeasurementError, warn
from ensemble_view.nets.checkpoints import Checkpoint, weights_hash
from ensemble_view.study.holding import check_batches, fitted, held_classes, output_note
from ensemble_view.study.normalising import normalisation_warning, normalised_for
from ensemble_view.study.provenance import Provenance
from ensemble_view.study.recorded import made, shorter
from ensemble_view.study.setting import setting_lines
from ensemble_view.study.variants import check_variants

__all__ = ["Subject", "examine", "installed_versions", "open_for", "setting_of", "text_for"]

_PACKAGES = ("ensemble-view", "torch", "torchvision", "numpy", "scipy", "pandas")


@dataclass(frozen=True, eq=False)
class Subject:
    """A chain and the data it is studied on.

    Args:
        data: What is studied on.
        model: Of the model: name, architecture, hash of its weights.
        portions: The data by shape of the examples, with the chain that was found for each.
        sample: Inputs and targets of the first two examples of the first portion.
        noted: What was said of model and data while they were brought together.
    """

    data: Data
    model: Mapping[str, Any]
    portions: tuple[tuple[Chain, Portion], ...]
    sample: tuple[Any, Any]
    noted: tuple[str, ...] = ()

    @property
    def chain(self) -> Chain:
        """The chain that was found for the first portion; the others have the same blocks."""
        return self.portions[0][0]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader needs before the numbers; every record and every text begins with it."""
        return tuple(note for note in (*self.noted, self.chain.residual_sums) if note)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return torch.device(self.model["device"])

    def provenance(
        self, *, seed: int, command: str | None, batch_size: int, threads: int
    ) -> Provenance:
        """Record where a result comes from.

        Args:
            seed: Of every random choice.
            command: What made the result; by default the command line or the call.
            batch_size: Examples per batch.
            threads: Of torch on the CPU.

        Returns:
            The record.
        """
        source = made()
        modules = self.chain.model.modules() if self.chain.model is not None else ()
        packages = {type(module).__module__.partition(".")[0] for module in modules}
        versions = installed_versions([*_PACKAGES, *sorted(packages - set(_PACKAGES))])
        return Provenance(
            model=self.model,
            data=self.data.to_json(),
            versions={"python": platform.python_version(), **versions},
            seed=seed,
            command=command or source.command,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            device=_describe_device(self.model["device"]),
            threads=threads,
            batch_size=batch_size,
            notes=self.notes,
            options=source.options,
        )


def setting_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Say how the architecture of a checkpoint was known, where it was guessed.

    Args:
        checkpoint: Any.

    Returns:
        One sentence; none where its file or the user said the architecture.
    """
    untraced = checkpoint.inferred
    inferred = None if untraced is None else [each.to_json() for each in untraced]
    return tuple(setting_lines({"architecture": checkpoint.architecture, "inferred": inferred}, {}))


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Look up the versions of packages.

    Args:
        packages: Names, also such as no installed package has.

    Returns:
        The version of each that is installed.

    Example:
        >>> sorted(installed_versions(["torch", "no_such_package"]))
        ['torch']
    """
    versions = {}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _describe_device(device: str) -> str:
    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return device


def text_for(
    model: nn.Module | None,
    source: Any,
    *,
    tokenizer: Any = None,
    length: int | None = None,
    split: str = "test",
) -> TextData:
    """Open text for a model.

    Args:
        model: Its configuration, if it has one, says how many positions and tokens it knows.
        source: As for :func:`~ensemble_view.data.text_sources.open_text`, or text that is open
        already.
        tokenizer: Likewise; None takes bytes, for a model of 256 tokens.
        length: The most tokens of a sequence; by default 512, or as many as the model takes.
        split: Which part, where a saved data set has parts.

    Returns:
        The text, as the model takes it.

    Raises:
        DataError: If the text cannot be opened, or does not fit the model.
    """
    config = getattr(model, "config", None)
    most = getattr(config, "max_position_embeddings", None)
    if not isinstance(most, int) or most < 1:
        most = None
    text = source
    if not isinstance(text, TextData):
        length = length or min(DEFAULT_LENGTH, most or DEFAULT_LENGTH)
        text = open_text(source, tokenizer=tokenizer, length=length, split=split)
    if most is not None and text.length > most:
        raise DataError(
            f"The length is {text.length:,} tokens, but the model takes at most {most:,}; choose "
            "a shorter length."
        )
    vocabulary = getattr(config, "vocab_size", None)
    if isinstance(vocabulary, int):
        text.check_vocabulary(vocabulary)
    return text.for_model(model)


def open_for(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    any_targets: bool = False,
    tokenizer: Any = None,
    length: int | None = None,
    split: str = "test",
) -> Data:
    """Open data as a model takes them.

    Args:
        model: As for :func:`examine`.
        data: As for :func:`examine`.
        any_targets: As for :func:`examine`.
        tokenizer: As for :func:`examine`.
        length: As for :func:`examine`.
        split: Which part of data that are named and have parts.

    Returns:
        The data; raw images are normalised as a checkpoint says.
    """
    module = model.model if isinstance(model, Checkpoint | Chain) else model
    asked = tokenizer is not None or length is not None
    if asked or isinstance(data, TextData) or is_text(data):
        return text_for(module, data, tokenizer=tokenizer, length=length, split=split)
    if isinstance(data, str):
        opened: Data = open_data(data, split=split)
    elif isinstance(data, Data):
        opened = data
    else:
        opened = TargetData(data) if any_targets else as_data(data)
    return fitted(module, normalised_for(model, opened))


def _first_two(data: Data, device: Any) -> tuple[Any, Any]:
    batch = next(iter(data.batches(2)), None)
    count = examples_in(batch)
    if batch is None or not count:
        raise DataError(f"The data {data.name!r} hold no example; there is nothing to measure.")

    def first(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return (leaf[:2] if leaf.ndim and len(leaf) == count else leaf).to(device)

    found: tuple[Any, Any] = pytree.tree_map(first, tuple(batch))
    return found


def examine(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    plain: bool = False,
    granularity: Granularity = "block",
    limit: int | None = None,
    seed: int = 0,
    any_targets: bool = False,
    tokenizer: Any = None,
    length: int | None = None,
    output: str | int | None = None,
    all_outputs: bool = False,
    batch_size: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Subject:
    """Bring a model and data together and unravel the model, once for each shape of the data.

    Args:
        model: A module, a chain, or a checkpoint.
        data: A name or path for :func:`~ensemble_view.data.opening.open_data`, or anything that
            :func:`~ensemble_view.data.opening.as_data` takes; text for
            :func:`~ensemble_view.data.text_sources.open_text`. Raw images are normalised as the
            checkpoint says, unless they were opened with a normalisation.
        plain: Take a net without shortcuts apart into its conv-norm-activation units.
        granularity: ``block`` or ``branch``, as for :func:`ensemble_view.unravel`.
        limit: At most so many examples, class-balanced.
        seed: Of the choice of examples.
        any_targets: Whether targets may be anything, not only one class index per example.
        tokenizer: Of text, as for :func:`text_for`.
        length: Of text, as for :func:`text_for`.
        output: Which of several outputs is measured, as for :func:`ensemble_view.unravel`.
        all_outputs: Whether what is measured may be of all outputs, ``output="all"``.
        batch_size: As the user says it; only a net whose answer to an example depends on the others
            in its batch needs it here.
        progress: Told the name of each stage of unravelling as it begins.

    Returns:
        The subject of a study.

    Warns:
        MeasurementWarning: If no normalisation is known for raw images, or they were opened with
            another than the checkpoint says.

    Raises:
        CheckpointError: If the architecture was inferred, and another with the same weights is
            right far more often.
        DiscoveryError: If the data come in several lengths, and the model is a chain that was found
            for one of them, or comes apart differently.
        DataError: If the data cannot be read, or their classes cannot be those of the net.
        MeasurementError: If the net's answers depend on the batch, whose size is not said.
    """
    module = model.model if isinstance(model, Checkpoint | Chain) else model
    if output is None and isinstance(model, Checkpoint):
        output = model.output
    opened = open_for(model, data, any_targets=any_targets, tokenizer=tokenizer, length=length)
    if limit is not None:
        opened = opened.subset(limit, seed)
    if isinstance(model, Checkpoint):
        check_variants(model, opened, seed, progress)
    device = next((p.device for p in module.parameters()), "cpu") if module is not None else "cpu"
    portions = tuple(opened.portions())
    samples = [_first_two(portion.data, device) for portion in portions]
    if isinstance(model, Chain):
        if output == ALL and model.whole is None:
            raise DiscoveryError(
                'The chain gives one output; unravel the model with output="all" to have all.'
            )
        if output not in (None, ALL) and str(output) != model.output:
            raise DiscoveryError(
                f"The chain follows the output {model.output or 'that it was built for'}, not "
                f"{output}; unravel the model with output={output!r}."
            )
        if len(portions) > 1 and module is not None:
            raise DiscoveryError(
                f"The chain was found for sequences of one length, but the data come in "
                f"{len(portions)}; give the model itself, which is then unravelled for each."
            )
        chains = [model] * len(portions)
    else:
        assert module is not None
        chains = [
            unravel(
                module,
                inputs,
                plain=plain,
                granularity=granularity,
                output=output,
                progress=progress,
            )
            for inputs, _ in samples
        ]
    if chains[0].whole is not None and not all_outputs:
        raise MeasurementError(
            "All outputs were asked for, which only a measure of one's own can read (measure= in "
            "Python): choose one of "
            f"{', '.join((chains[0].output or 'the only one', *chains[0].other_outputs))} with "
            "--output (output= in Python)."
        )
    names = [[block.name for block in chain] for chain in chains]
    if any(one != names[0] for one in names):
        raise DiscoveryError(
            f"The model comes apart into {' and '.join(sorted({str(len(n)) for n in names}))} "
            "blocks, or blocks of other names, for sequences of different length, so that "
            "deletions cannot be compared; give sequences of one length."
        )
    if not any_targets and len(portions) == 1:
        opened = held_classes(model, chains[0], opened, device)
        portions = tuple(opened.portions())
    noted = (
        *getattr(opened, "remarks", ()),
        output_note(chains[0]),
        check_batches(
            module,
            chains[0],
            samples[0][0],
            batch_size,
            fixed=getattr(opened, "loader", None) is not None,
        ),
    )
    description: dict[str, Any] = {
        "name": type(module).__name__ if module is not None else "parts",
        "blocks": len(chains[0]),
        "device": str(device),
    }
    if isinstance(model, Checkpoint):
        description |= {
            "name": model.path.stem if model.path is not None else model.architecture,
            "architecture": model.architecture,
            "inferred": None if model.inferred is None else [u.to_json() for u in model.inferred],
            "path": None if model.path is None else shorter(str(model.path)),
            "weights_hash": model.weights_hash,
        }
    elif module is not None:
        description["weights_hash"] = weights_hash(module)
    if chains[0].other_outputs:
        description["output"] = chains[0].output if chains[0].whole is None else ALL
    found = normalisation_warning(model, opened)
    if found is not None:
        warn(found)
    normalisation = getattr(opened, "normalisation", None)
    return Subject(
        data=opened,
        model=description,
        portions=tuple(zip(chains, portions, strict=True)),
        sample=samples[0],
        noted=(
            *setting_lines(
                description,
                {"normalisation": normalisation},
                () if found is None else (found,),
            ),
            *noted,
        ),
    )
