"""Results that follow from the outcomes of one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Self, cast

import numpy.typing as npt

from ensemble_view.study.result import StudyResult
from ensemble_view.study.run import Run

__all__ = ["RunResult"]


class RunResult(StudyResult):
    """A frozen dataclass with a field ``run``: its outcomes are saved, all else derives from them.

    Other fields of plain values (numbers, strings, tuples of these) are saved and read back with
    it; a result with others says how, in ``_record`` and ``_restored``.

    Class attributes:
        run: of the study.
    """

    run: Run

    @property
    def stopped_after(self) -> int | None:
        """How many examples the result is of, if the user stopped the study early."""
        return self.run.stopped_after

    @property
    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """The outcomes of every example."""
        return self.run.outcomes.arrays

    def _record(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in self._own_fields()}
        return {**self.run.to_json(), **own, "rows": self.frame.to_dict("records")}

    @classmethod
    def _restored(cls, content: Mapping[str, Any], folder: Path) -> Self:
        own = {name: _tuples(content[name]) for name in cls._own_fields()}
        made: Any = cls
        return cast("Self", made(run=Run.restored(content, folder), **own))

    @classmethod
    def _own_fields(cls) -> list[str]:
        return [field.name for field in fields(cls) if field.name != "run"]  # type: ignore[arg-type]


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
