"""The values that a lesion result is made of: lesions, outcomes per example, cost, provenance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ensemble_view.errors import MeasurementError
from ensemble_view.printable import printable_name
from ensemble_view.study.files import plain

__all__ = [
    "Baseline",
    "Cost",
    "ExampleArrays",
    "Lesion",
    "NotDeletable",
    "Outcomes",
    "Provenance",
]

WARNING = "Warning: "
"""What the notes that are warnings begin with."""


@dataclass(frozen=True)
class Lesion:
    """What one lesion deletes.

    Attributes:
        label: the block indices in the words of the command line, ``"3"`` or ``"3,7-9"``.
        names: the module path of each deleted block.
        blocks: the index of each deleted block, counted from 0.
        changes_shape: whether any deleted block changes the shape (downsampling).
        shortcut_kind: ``"identity"``, ``"projection"``, ``"zero-pad"``, ``"none"``, or ``"mixed"``
            where the deleted blocks differ.
    """

    label: str
    names: tuple[str, ...]
    blocks: tuple[int, ...]
    changes_shape: bool
    shortcut_kind: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", printable_name(self.label))
        object.__setattr__(self, "names", tuple(map(printable_name, self.names)))


@dataclass(frozen=True)
class NotDeletable:
    """A block of the chain that cannot be deleted, and why.

    Attributes:
        index: its index, counted from 0 together with the deletable blocks.
        name: its module path.
        reason: a phrase such as ``"changes the shape and has no shortcut"``.
    """

    index: int
    name: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable_name(self.name))


@dataclass(frozen=True)
class Baseline:
    """The full net on the same examples.

    Attributes:
        accuracy: a proportion.
        accuracy_low: lower limit of Wilson's interval.
        accuracy_high: upper limit of Wilson's interval.
        chance: accuracy of the best constant guess: the largest class's share of the labels.
        loss: mean cross-entropy in nats.
        n: number of examples.
    """

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    chance: float
    loss: float
    n: int


@dataclass(frozen=True)
class Cost:
    """What the measurement cost.

    Attributes:
        block_evaluations: blocks evaluated in one pass of one batch through the trie of plans.
        naive_block_evaluations: the same with a forward pass for each lesion.
        batches: number of batches, each of which cost that much.
    """

    block_evaluations: int
    naive_block_evaluations: int
    batches: int


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from; all values are kept as plain JSON values.

    Attributes:
        model: the net: architecture, file, hash of its weights.
        data: the examples: name, fingerprint, normalisation, limit.
        versions: version of each package that took part.
        seed: seed of every random choice.
        command: the command or call that made the result.
        date: when, in ISO 8601.
        device: where the net ran.
        threads: number of threads.
        batch_size: examples per batch; repetition is bit-identical at the same batch size only.
        notes: sentences that a reader needs before the numbers: what was taken for granted, and
            what of the net was not looked at. Every text of a result begins with them.
        options: every option of the command or call with its value, defaults included.
    """

    model: Mapping[str, Any]
    data: Mapping[str, Any]
    versions: Mapping[str, str]
    seed: int
    command: str
    date: str
    device: str
    threads: int
    batch_size: int
    notes: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("model", "data", "versions", "options"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        for described in (self.model, self.data):
            if isinstance(described, dict) and isinstance(described.get("name"), str):
                described["name"] = printable_name(described["name"])
        object.__setattr__(self, "notes", tuple(map(printable_name, self.notes)))

    def to_json(self) -> dict[str, Any]:
        """Give what a record says of it.

        Returns:
            A value per field, and the warnings among the notes.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"warnings": self.warnings}

    @property
    def warnings(self) -> tuple[str, ...]:
        """The notes that are warnings: what is unknown about net or data, or looks wrong."""
        return tuple(n.removeprefix(WARNING) for n in self.notes if n.startswith(WARNING))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Provenance:
        """Read it back from a record.

        Args:
            content: of ``results.json``; earlier records have neither notes nor options.

        Returns:
            The provenance.

        Raises:
            KeyError: if something else is missing.

        Example:
            >>> here = Provenance({}, {}, {}, seed=0, command="", date="", device="cpu", threads=1,
            ...                   batch_size=2, notes=("Read this first.",))
            >>> Provenance.from_json(here.to_json()) == here
            True
        """
        later: dict[str, Any] = {"notes": (), "options": {}}
        return cls(
            **{
                each.name: content.get(each.name, later[each.name])
                if each.name in later
                else content[each.name]
                for each in fields(cls)
            }
        )


@dataclass(frozen=True, eq=False)
class ExampleArrays:
    """Arrays over the same examples: ``[lesions, examples]``, or ``[examples]`` of the full net.

    A subclass is a frozen dataclass of arrays and names those of the full net and the examples,
    that which counts the examples last.
    """

    of_examples: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        counted = self.of_examples[-1]
        examples = self.arrays[counted].shape
        if len(examples) != 1 or examples[0] == 0:
            raise MeasurementError(
                f"The {counted} have shape {examples}; expected one dimension with at least one "
                "example; measure at least one batch."
            )
        for name, array in self.arrays.items():
            expected = examples if name in self.of_examples else (self.lesions, *examples)
            if array.shape != expected:
                raise MeasurementError(
                    f"The outcomes' {name} has shape {array.shape}; expected {expected}; "
                    "measure every lesion on the same examples."
                )

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def lesions(self) -> int:
        """How many rows the arrays of lesions have."""
        return next(len(a) for name, a in self.arrays.items() if name not in self.of_examples)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return all(
            mine.dtype == theirs.dtype
            and np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f")
            for mine, theirs in zip(self.arrays.values(), other.arrays.values(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class Outcomes(ExampleArrays):
    """The measurements of every example under every lesion.

    Attributes:
        correct: shape ``[lesions, examples]``, boolean: the lesioned net is right.
        loss: shape ``[lesions, examples]``, float32: cross-entropy in nats.
        agreement: shape ``[lesions, examples]``, boolean: it predicts the full net's class.
        divergence: shape ``[lesions, examples]``, float32: KL divergence from the full net's
            prediction to the lesioned net's, in nats.
        baseline_correct: shape ``[examples]``, boolean: the full net is right.
        baseline_loss: shape ``[examples]``, float32: cross-entropy in nats.
        labels: shape ``[examples]``, int64: the true classes.
    """

    of_examples = ("baseline_correct", "baseline_loss", "labels")

    correct: npt.NDArray[np.bool_]
    loss: npt.NDArray[np.float32]
    agreement: npt.NDArray[np.bool_]
    divergence: npt.NDArray[np.float32]
    baseline_correct: npt.NDArray[np.bool_]
    baseline_loss: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
