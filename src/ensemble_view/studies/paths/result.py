"""The paths through a net: how many of each length, in blocks and in layers, and which survive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd

from ensemble_view.paths.lengths import PathLengths, surviving_share
from ensemble_view.study.result import StudyResult
from ensemble_view.study.words import shortened_count

__all__ = ["PathCounts"]

_KIND, _VERSION = "paths", 1
_QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
_LONGEST = 1_000_000


@dataclass(frozen=True, repr=False)
class PathCounts(StudyResult):
    """How many paths lead through a net.

    Attributes:
        name: of the net.
        blocks: lengths in branches, exact.
        layers: lengths in layers, exact; None where a branch's layers cannot be told.

    Example:
        >>> from ensemble_view.paths.lengths import path_lengths
        >>> result = PathCounts("net", path_lengths(54), path_lengths([(0, 2)] * 54))
        >>> result.frame.loc[[5], ["length", "paths", "surviving_10"]].round(3)
           length    paths  surviving_10
        5       5  3162510         0.343
    """

    kind = "paths"
    file_name = "paths"

    name: str
    blocks: PathLengths
    layers: PathLengths | None = None

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """Of each length in branches, the share of all paths."""
        return tuple(count / self.blocks.total for count in self.blocks.counts)

    @cached_property
    def surviving(self) -> dict[int, tuple[float, ...]]:
        """For 1, 2, 5, 10 and 20 deleted blocks, the share of the paths left, by length."""
        n = self.blocks.longest
        return {
            deleted: tuple(surviving_share(n, length, deleted) for length in range(n + 1))
            for deleted in (1, 2, 5, 10, 20)
            if deleted < n
        }

    @property
    def frame(self) -> pd.DataFrame:
        """One row per length in branches: ``length``, ``paths``, ``share``, ``surviving_D``."""
        columns: dict[str, Any] = {
            "length": range(len(self.blocks.counts)),
            # Exact integers, however large.
            "paths": pd.Series(self.blocks.counts, dtype=object),
            "share": self.shares,
        }
        columns |= {f"surviving_{deleted}": each for deleted, each in self.surviving.items()}
        return pd.DataFrame(columns)

    @property
    def layers_frame(self) -> pd.DataFrame:
        """One row per length in layers: ``length``, ``paths``, ``share``."""
        lengths = self.layers or PathLengths((0,))
        rows = [(k, count) for k, count in enumerate(lengths.counts) if count]
        return pd.DataFrame(
            {
                "length": [length for length, _ in rows],
                "paths": pd.Series([count for _, count in rows], dtype=object),
                "share": [count / lengths.total for _, count in rows],
            }
        )

    @property
    def summary(self) -> str:
        """The numbers in plain words."""
        n = self.blocks.longest
        words = f"{self.name}: 2^{n} = {self.blocks.total:,} paths through {n} blocks. "
        words += _spread(self.blocks, "branches")
        if self.layers is None:
            return f"{words} Their lengths in layers cannot be told."
        return f"{words} {_spread(self.layers, 'layers')}"

    def _record(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "blocks": self.frame.to_dict("records"),
            "layers": None if self.layers is None else self.layers_frame.to_dict("records"),
        }

    @classmethod
    def _restored(cls, content: Mapping[str, Any], folder: Path) -> Self:
        def lengths(rows: list[dict[str, Any]]) -> PathLengths:
            paths = {row["length"]: row["paths"] for row in rows}
            if not all(isinstance(length, int) and 0 <= length < _LONGEST for length in paths):
                raise ValueError(f"a path is as long as {max(map(str, paths))[:20]}")
            if not all(type(count) is int and count >= 0 for count in paths.values()):
                raise ValueError("a number of paths is no whole number from 0")
            if not any(paths.values()):
                raise ValueError("there is no path")
            return PathLengths(tuple(paths.get(length, 0) for length in range(max(paths) + 1)))

        layers = content["layers"]
        return cls(
            content["name"],
            lengths(content["blocks"]),
            None if layers is None else lengths(layers),
        )

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Lengths in branches and, where they are known, in layers."""
        return {"paths": self.frame} | (
            {} if self.layers is None else {"layers": self.layers_frame}
        )

    @property
    def table(self) -> str:
        """One row per length in branches, and the shares left after deletions."""
        heads = "".join(f"{deleted:>8}" for deleted in self.surviving)
        lines = [
            f"{'':33}   left after deleting",
            f"{'length':>6} {'paths':>17} {'share':>8}{heads}",
        ]
        for row in self.frame.to_dict("records"):
            left = "".join(f"{row[f'surviving_{deleted}']:8.3f}" for deleted in self.surviving)
            paths = shortened_count(row["paths"], 17)
            lines.append(f"{row['length']:>6} {paths:>17} {row['share']:8.2%}{left}")
        return "\n".join(lines)


def _spread(lengths: PathLengths, unit: str) -> str:
    low, first, median, third, high = (lengths.quantile(each) for each in _QUANTILES)
    return (
        f"In {unit} they are {lengths.shortest} to {lengths.longest} long, {lengths.mean:.1f} on "
        f"average, the middle half {first} to {third} (median {median}), 98 % of them {low} to "
        f"{high}."
    )
