"""Do the intervals of random deletions hold what they promise, also with ruinous blocks?

Nets are simulated of which everything is known. A block wears an example down by a random amount,
and the example is lost when its margin is used up; what is lost is guessed. In a *summing* net the
amounts add up; in a *striking* net each block loses an example or does nothing; in a *redundant*
net the sum is squared, so that blocks back each other up. Beside these blocks, none, one or three
are ruinous: nearly every example is lost without them.

Each time, examples and sets of k blocks are drawn, the mean error over all sets and examples is
estimated as `ensemble_view.random` does it, and the interval holds the true mean or not. Beside
it stands the interval of a crossed two-way table, which knows nothing of single blocks.

    python analyses/trial_coverage.py

writes ``analyses/trial_coverage/``: ``coverage.csv`` (by net, blocks, ruinous ones, deletions and
trials) and ``summary.md``. Some ten minutes on one CPU core.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from reporting import made_by, markdown_table, write

from ensemble_view.statistics.crossed import crossed_mean
from ensemble_view.statistics.subset_mean import calibrated_mean, survival
from ensemble_view.statistics.subsets import Subsets

NETS = ("summing", "striking", "redundant")
BLOCKS = (27, 54)
RUINOUS = (0, 1, 3)
TRIALS = (10, 20, 50)
DELETED = (2, 3, 5, 7, 10)
"""A single deletion is enumerated."""
EXAMPLES = 300
ROUNDS = 1000
SEED = 0
LEVEL = 0.95
CHANCE = 0.9
"""The error of a guess."""
PROMISED = 0.935

_BANK = 4000
_PAIRS = 600_000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SimulatedNet:
    """Examples and what each block does to each of them.

    Args:
        kind: "summing", "striking" or "redundant".
        wear: By how much a block's deletion wears an example down, ``[examples, blocks]``.
        margin: How much an example stands, ``[examples]``.
        wrong: Whether the full net is wrong, ``[examples]``.
        unlucky: Whether a guess is wrong, ``[examples]``.
    """

    kind: str
    wear: npt.NDArray[np.float32]
    margin: npt.NDArray[np.float32]
    wrong: npt.NDArray[np.bool_]
    unlucky: npt.NDArray[np.bool_]

    @classmethod
    def drawn(cls, kind: str, blocks: int, ruinous: int, rng: np.random.Generator) -> SimulatedNet:
        """Draw a net and the examples that there are.

        Args:
            kind: Of the net.
            blocks: How many.
            ruinous: How many of them are ruinous.
            rng: The source of all randomness.

        Returns:
            The net.
        """
        shape = (_BANK, blocks)
        if kind == "striking":
            chances = np.minimum(0.9, rng.gamma(0.7, 1 / 0.7, blocks) * 1.5 / blocks)
            wear = 2.0 * (rng.random(shape) < chances)
            margin = np.ones(_BANK)
        else:
            sizes = rng.gamma(1, 1, blocks) * (6.0 if kind == "summing" else 4.0) / blocks
            wear = sizes * rng.gamma(0.7, 1 / 0.7, shape)
            margin = rng.gamma(2, 0.75, _BANK)
        chosen = rng.choice(blocks, ruinous, replace=False)
        wear[:, chosen] = np.where(rng.random((_BANK, ruinous)) < 0.97, 1e3, 0.0)
        return cls(
            kind,
            wear.astype(np.float32),
            margin.astype(np.float32),
            rng.random(_BANK) < 0.08,
            rng.random(_BANK) < CHANCE,
        )

    def errors(self, members: npt.NDArray[np.bool_], chosen: npt.NDArray[np.intp]) -> Floats:
        """Return whether examples are wrong after deletions.

        Args:
            members: Which blocks each deletes, ``[trials, blocks]``.
            chosen: Which examples.

        Returns:
            0 or 1, ``[trials, examples]``.
        """
        worn = members.astype(np.float32) @ self.wear[chosen].T
        return self._after(worn, chosen)

    def mean(self, deleted: int, rng: np.random.Generator) -> float:
        """Return the mean error over all examples and sets, from many pairs of the two."""
        found = []
        for _ in range(_PAIRS // _BANK):
            members = drawn_sets(self.wear.shape[1], deleted, _BANK, rng)
            worn = np.einsum("eb,eb->e", members.astype(np.float32), self.wear)
            found.append(self._after(worn, np.arange(_BANK)).mean())
        return float(np.mean(found))

    def _after(self, worn: npt.NDArray[np.float32], chosen: npt.NDArray[np.intp]) -> Floats:
        worn = worn**2 if self.kind == "redundant" else worn
        lost = worn > self.margin[chosen]
        return np.where(lost, self.unlucky[chosen], self.wrong[chosen]).astype(np.float64)


def drawn_sets(
    blocks: int, deleted: int, trials: int, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Draw sets of blocks, ``[trials, blocks]``."""
    places = np.argpartition(rng.random((trials, blocks)), deleted - 1, axis=1)[:, :deleted]
    members = np.zeros((trials, blocks), dtype=bool)
    np.put_along_axis(members, places, True, axis=1)
    return members


def coverage(
    net: SimulatedNet,
    deleted: int,
    trials: int,
    rng: np.random.Generator,
    *,
    examples: int = EXAMPLES,
    rounds: int = ROUNDS,
) -> dict[str, float]:
    """Count how often the intervals hold the true mean.

    Args:
        net: The net.
        deleted: Blocks per set.
        trials: Sets per round.
        rng: The source of all randomness.
        examples: Per round.
        rounds: How many.

    Returns:
        The true mean, and coverage and mean width of both intervals.
    """
    truth, blocks = net.mean(deleted, rng), net.wear.shape[1]
    subsets = Subsets((tuple(range(blocks)),))
    held = np.zeros((rounds, 2), dtype=bool)
    widths = np.zeros((rounds, 2))
    for number in range(rounds):
        chosen = rng.integers(_BANK, size=examples)
        members = drawn_sets(blocks, deleted, trials, rng)
        table = net.errors(members, chosen)
        alone = net.errors(np.eye(blocks, dtype=bool), chosen).mean(axis=1)
        full = float(net.errors(np.zeros((1, blocks), dtype=bool), chosen).mean())
        sets = [np.flatnonzero(row).tolist() for row in members]
        known = survival(sets, subsets, alone, full, CHANCE)
        low, high = calibrated_mean(table, known).limits(LEVEL, lowest=0.0)
        plain = crossed_mean(table, LEVEL)
        for place, (least, most) in enumerate([(low, high), (plain.low, plain.high)]):
            held[number, place] = least <= truth <= most
            widths[number, place] = most - least
    return {
        "mean": truth,
        "coverage": held[:, 0].mean(),
        "width": widths[:, 0].mean(),
        "coverage_crossed": held[:, 1].mean(),
        "width_crossed": widths[:, 1].mean(),
    }


def run(
    folder: Path,
    *,
    nets: Sequence[str] = NETS,
    blocks: Sequence[int] = BLOCKS,
    ruinous: Sequence[int] = RUINOUS,
    deleted: Sequence[int] = DELETED,
    trials: Sequence[int] = TRIALS,
    rounds: int = ROUNDS,
    seed: int = SEED,
) -> pd.DataFrame:
    """Simulate all combinations and write table and summary.

    Args:
        folder: Where to write.
        nets: Kinds of nets.
        blocks: Numbers of blocks.
        ruinous: Numbers of ruinous ones.
        deleted: Numbers of deletions.
        trials: Numbers of trials.
        rounds: Per combination.
        seed: Of all randomness.

    Returns:
        A row per combination.
    """
    rows: list[dict[str, Any]] = []
    for number, (kind, n, c) in enumerate(itertools.product(nets, blocks, ruinous)):
        rng = np.random.default_rng([seed, number])
        net = SimulatedNet.drawn(kind, n, c, rng)
        for k, t in itertools.product(deleted, trials):
            found = coverage(net, k, t, rng, rounds=rounds)
            rows.append(
                {"net": kind, "blocks": n, "ruinous": c, "deleted": k, "trials": t, **found}
            )
    table = pd.DataFrame(rows)
    write(folder, {"coverage": table}, {}, summary(table, rounds, seed))
    return table


def summary(table: pd.DataFrame, rounds: int, seed: int) -> list[str]:
    """Say what was found.

    Args:
        table: A row per combination.
        rounds: Per combination.
        seed: Of all randomness.

    Returns:
        The lines of summary.md.
    """
    error = 100 * float(np.sqrt(LEVEL * (1 - LEVEL) / rounds))
    rows = []
    for (ruinous, trials), each in table.groupby(["ruinous", "trials"]):
        ratio = each["width"] / each["width_crossed"]
        rows.append(
            (
                ruinous,
                trials,
                f"{each['coverage'].mean():.3f}",
                f"{each['coverage'].min():.3f}",
                f"{each['coverage_crossed'].mean():.3f}",
                f"{each['coverage_crossed'].min():.3f}",
                f"{ratio.mean():.2f} ({ratio.min():.2f} to {ratio.max():.2f})",
            )
        )
    below = int((table["coverage"] < PROMISED).sum())
    return [
        "# Coverage of the intervals of random deletions",
        "",
        f"{made_by('python analyses/trial_coverage.py', 'cpu')} Seed {seed}; {rounds:,} rounds "
        f"per combination, so that a coverage has a standard error of {error:.1f} points; "
        f"{EXAMPLES} examples each time.",
        "",
        f"Nominal {LEVEL:.0%} intervals of the mean error over all sets of k blocks, k = "
        f"{', '.join(map(str, sorted(table['deleted'].unique())))} of "
        f"{' or '.join(map(str, sorted(table['blocks'].unique())))}, of "
        f"{len(table['net'].unique())} kinds of simulated nets with ruinous blocks or without. "
        "*Calibrated*: with the single deletions as control variate, as reported; *crossed*: of "
        "the two-way table of trials and examples alone.",
        "",
        *markdown_table(
            (
                "ruinous blocks",
                "trials",
                "calibrated: mean coverage",
                "least",
                "crossed: mean coverage",
                "least",
                "width, calibrated over crossed",
            ),
            rows,
        ),
        "",
        f"Of {len(table)} combinations {below} have a coverage below {PROMISED:.1%}.",
    ]


if __name__ == "__main__":
    target = Path(__file__).with_suffix("")
    run(target)
    print((target / "summary.md").read_text())
