"""The result of asking of each block what gradient its branch and its shortcut carry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

import pandas as pd

from ensemble_view.study.checked import check_blocks, check_within
from ensemble_view.study.provenance import Provenance
from ensemble_view.study.result import StudyResult
from ensemble_view.study.words import about

__all__ = ["BlockRow", "GradientsByBlock"]

_ROUNDING = 1e-6


@dataclass(frozen=True)
class BlockRow:
    """What was measured of one block: means over examples, and their intervals.

    Every measure has its limits under its name with ``_low`` and ``_high``: t intervals over
    examples; of ``head_accuracy`` Wilson's, of text a t interval over sequences. None stands for
    what is undefined. The two gradients are skewed (of a well-trained net few examples carry most
    of them), so that their limits hold less often than said, much less with few examples; what is
    relative (``branch_share``, ``norm_ratio``, ``cosine``) is not.

    Attributes:
        block: its index.
        name: its module path.
        shape: of its output.
        changes_shape: whether that is not the shape of its input.
        branch_gradient: ‖Bᵀ Aᵀ c‖, the gradient that passes through its branch.
        shortcut_gradient: ‖Sᵀ Aᵀ c‖, the gradient that passes through its shortcut.
        branch_share: the branch's, over the sum of both.
        norm_ratio: ‖F(h)‖ / ‖h‖, the size of what the branch adds to that of the block's input.
        cosine: cos(F(h), −∂L/∂h): 1 where the branch goes straight downhill; None where the two
            have different shapes.
        head_accuracy: of the head when the later blocks are deleted; None before the last stage.
    """

    block: int
    name: str
    shape: str
    changes_shape: bool
    branch_gradient: float | None = None
    branch_gradient_low: float | None = None
    branch_gradient_high: float | None = None
    shortcut_gradient: float | None = None
    shortcut_gradient_low: float | None = None
    shortcut_gradient_high: float | None = None
    branch_share: float | None = None
    branch_share_low: float | None = None
    branch_share_high: float | None = None
    norm_ratio: float | None = None
    norm_ratio_low: float | None = None
    norm_ratio_high: float | None = None
    cosine: float | None = None
    cosine_low: float | None = None
    cosine_high: float | None = None
    head_accuracy: float | None = None
    head_accuracy_low: float | None = None
    head_accuracy_high: float | None = None


@dataclass(frozen=True, repr=False)
class GradientsByBlock(StudyResult):
    """What gradient passes through each block's branch and shortcut, and what the branch adds.

    Attributes:
        rows: one per block.
        loss: name of the loss whose gradient it is.
        examples: how many were measured.
        unit: what they are: ``examples`` or ``sequences``.
        level: of the intervals, a proportion.
        seconds: wall-clock time.
        provenance: net, data, versions, seed.
        interrupted: whether it was stopped early; what is here is of the examples done by then.

    Example:
        >>> provenance = Provenance({"name": "net"}, {"name": "one"}, {}, seed=0, command="",
        ...                         date="", device="cpu", threads=1, batch_size=1)
        >>> row = BlockRow(0, "layer1.0", "16×8×8", False, branch_gradient=1.0,
        ...                shortcut_gradient=3.0, branch_share=0.25, norm_ratio=0.5, cosine=0.1)
        >>> GradientsByBlock((row,), "cross-entropy", 4, "examples", 0.95, 0.1, provenance)
        block  module               branch   shortcut     share ‖F‖/‖h‖  cosine   head
            0  layer1.0                  1          3     0.250   0.500   0.100
        <BLANKLINE>
        net, 4 examples of one, gradient of cross-entropy. The branch carries 25.0 % of
        ...
    """

    kind = "gradients by block"
    file_name = "blocks"

    rows: tuple[BlockRow, ...]
    loss: str
    examples: int
    unit: str
    level: float
    seconds: float
    provenance: Provenance
    interrupted: bool = False

    @property
    def frame(self) -> pd.DataFrame:
        """One row per block, with the columns of :class:`BlockRow`; nan for what is undefined."""
        return pd.DataFrame(
            [
                {name: math.nan if value is None else value for name, value in asdict(row).items()}
                for row in self.rows
            ],
            columns=[field.name for field in fields(BlockRow)],
        )

    @property
    def summary(self) -> str:
        """The result in plain words."""
        net = self.provenance.model.get("name", "the net")
        data = self.provenance.data.get("name", "the data")
        unit = self.unit.removesuffix("s") if self.examples == 1 else self.unit
        cut = " (interrupted: these are those done so far)" if self.interrupted else ""
        sentences = [f"{net}, {self.examples:,} {unit} of {data}{cut}, gradient of {self.loss}."]
        sentences += _spread(
            self.rows, "branch_share", "The branch carries {} of the gradient at a block "
            "(norm through the branch, over the norms through branch and shortcut together).",
        )  # fmt: skip
        sentences += _spread(
            self.rows, "norm_ratio", "What the branch adds is {} of the block's input in norm."
        )
        signs = [row for row in self.rows if row.cosine_low is not None]
        if signs:
            down = sum(row.cosine_low is not None and row.cosine_low > 0 for row in signs)
            up = sum(row.cosine_high is not None and row.cosine_high < 0 for row in signs)
            sentences.append(
                f"Of {len(signs)} blocks that keep the shape, the branch goes downhill in {down} "
                f"and uphill in {up} (the interval of its cosine with minus the gradient is above, "
                "or below, zero)."
            )
        heads = [row for row in self.rows if row.head_accuracy is not None]
        if heads:
            first, last = heads[0].head_accuracy, heads[-1].head_accuracy
            sentences.append(
                f"Put after the first of the last stage's {len(heads)} blocks, the head is right "
                f"on {_percent(first)}, after the last on {_percent(last)}."
            )
        sentences.append(about(self.examples, self.unit))
        return " ".join(sentences)

    @property
    def stopped_after(self) -> int | None:
        """How many examples the result is of, if the user stopped the study early."""
        return self.examples if self.interrupted else None

    def _record(self) -> dict[str, Any]:
        return {
            **self.provenance.to_json(),
            **{name: getattr(self, name) for name in self._own()},
            "rows": [asdict(row) for row in self.rows],
        }

    @classmethod
    def _own(cls) -> list[str]:
        return [field.name for field in fields(cls) if field.name not in ("rows", "provenance")]

    @classmethod
    def _restored(cls, content: Mapping[str, Any], folder: Path) -> Self:
        rows = tuple(BlockRow(**row) for row in content["rows"])
        check_blocks([row.block for row in rows], 1 + max((row.block for row in rows), default=0))
        ends = {
            "branch_gradient": (0, math.inf), "shortcut_gradient": (0, math.inf),
            "branch_share": (0, 1), "norm_ratio": (0, math.inf), "cosine": (-1, 1),
            "head_accuracy": (0, 1),
        }  # fmt: skip
        for name, (low, high) in ends.items():
            # What is computed of float32 may lie a rounding beyond its end.
            values = [getattr(row, name) for row in rows]
            check_within(f"{name} of a block", values, low - _ROUNDING, high + _ROUNDING)
        check_within("the number of examples", [content["examples"]], 1, math.inf)
        check_within("the level", [content["level"]])
        check_within("the time in seconds", [content["seconds"]], 0, math.inf)
        return cls(
            rows=rows,
            provenance=Provenance.from_json(content),
            **{name: content[name] for name in cls._own()},
        )

    @property
    def table(self) -> str:
        """One row per block; a star marks those that change the shape."""
        lines = [
            f"{'block':>5}  {'module':<15} {'branch':>10} {'shortcut':>10} {'share':>9}"
            f" {'‖F‖/‖h‖':>7} {'cosine':>7} {'head':>6}"
        ]
        for row in self.rows:
            name = row.name if len(row.name) <= 15 else f"...{row.name[-12:]}"
            lines.append(
                f"{row.block:>5}{'*' if row.changes_shape else ' '} {name:<15}"
                f" {_number(row.branch_gradient, '.3g'):>10}"
                f" {_number(row.shortcut_gradient, '.3g'):>10} {_number(row.branch_share):>9}"
                f" {_number(row.norm_ratio):>7} {_number(row.cosine):>7}"
                f" {_number(row.head_accuracy):>6}".rstrip()
            )
        if any(row.changes_shape for row in self.rows):
            lines.append("* changes the shape (downsampling)")
        return "\n".join(lines)


def _number(value: float | None, spec: str = ".3f") -> str:
    return "" if value is None else format(value, spec)


def _spread(rows: Sequence[BlockRow], name: str, words: str) -> list[str]:
    values = sorted(getattr(row, name) for row in rows if getattr(row, name) is not None)
    if not values:
        return []
    low, high = f"{100 * values[0]:.1f}", _percent(values[-1])
    return [words.format(high if high == f"{low} %" else f"{low} to {high}")]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"
