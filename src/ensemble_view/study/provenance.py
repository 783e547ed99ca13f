"""Where a result comes from, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ensemble_view.errors import printable_name
from ensemble_view.study.files import plain

__all__ = ["WARNING", "Cost", "Provenance"]


WARNING = "Warning: "
"""What the notes that are warnings begin with."""


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
