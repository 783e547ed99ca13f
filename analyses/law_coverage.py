"""Do the intervals of the additive law and of random reorderings hold what they promise?

Nets are simulated of which everything is known. A deletion wears an example down by a random
amount, and the example is lost when its margin is used up; what is lost is guessed. The additive
law adds up what single deletions do. In an *additive* net that is what happens; in a *redundant*
one the square of the sum counts, so that the law promises too much; in a *saturating* one the
square root, so that it promises too little; in an *erratic* one each two blocks hinder or help each
other by chance. None, one or three blocks are ruinous beside these. Examples and sets of k blocks
are drawn, the result of `ensemble_view.random` is made of them, and the interval of its law holds
the true difference of predicted and measured accuracy over all sets and examples, or does not.

Of reorderings, blocks wear examples down by how far they are moved: *smooth* nets all alike,
*brittle* ones nearly lose all examples once one of three blocks is moved, *uneven* ones also by a
random amount of each order. Swaps are drawn as `ensemble_view.reorder` draws them, and the interval
of each bin of Kendall's tau holds the mean error over all orders whose tau is within the bin.

    python analyses/law_coverage.py

writes ``analyses/law_coverage/``: ``coverage.csv`` and ``summary.md``. Some four minutes on one CPU
core.
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
from trial_coverage import drawn_sets

from ensemble_view.studies.random.law import MARGIN, AdditivePredictions
from ensemble_view.studies.random.result import ManyResult
from ensemble_view.studies.reorder.result import ReorderResult
from ensemble_view.study.draws import draw_swaps, swapped
from ensemble_view.study.outcomes import Outcomes
from ensemble_view.study.provenance import Cost, Provenance
from ensemble_view.study.run import Run

NETS = ("additive", "redundant", "saturating", "erratic")
ORDERED = ("smooth", "brittle", "uneven")
RUINOUS = (0, 1, 3)
BLOCKS = 27
TRIALS = (10, 50)
DELETED = (2, 5, 10)
SWAPS = ((1, 2, 5), (1, 2, 5, 10, 20))
EXAMPLES = 200
ROUNDS = 200
SEED = 0
LEVEL = 0.95
CLASSES = 10

_BANK = 4000
_PAIRS = 400_000
_ORDERS = 20_000

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]


def made_of(correct: Bools, full: Bools, labels: npt.NDArray[np.int64]) -> Run:
    """Make a run of what is right after each plan, and before any.

    Args:
        correct: ``[plans, examples]``.
        full: ``[examples]``.
        labels: ``[examples]``.

    Returns:
        The run; losses and distances, which are not asked for, are zero.
    """
    none = np.zeros(correct.shape, dtype=np.float32)
    provenance = Provenance(
        {"name": "simulated"}, {"name": "simulated"}, {}, 0, "", "", "cpu", 1, 1
    )
    outcomes = Outcomes(
        correct=correct,
        loss=none,
        agreement=correct == full,
        divergence=none,
        baseline_correct=full,
        baseline_loss=none[0],
        labels=labels,
    )
    return Run(outcomes, Cost(1, 1, 1), 0.0, provenance, level=LEVEL)


def classes(examples: int) -> npt.NDArray[np.int64]:
    """Labels of classes of about one size."""
    return np.arange(examples, dtype=np.int64) % CLASSES


@dataclass(frozen=True, eq=False)
class DecayingNet:
    """Examples, what each block does to each of them, and what the blocks do together.

    Args:
        kind: One of :data:`NETS`.
        wear: By how much a block's deletion wears an example down, ``[examples, blocks]``.
        meeting: What each two blocks do beyond that in an erratic net, ``[blocks, blocks]``.
        margin: How much an example stands, ``[examples]``.
        wrong: Whether the full net is wrong, ``[examples]``.
        lucky: Whether a guess is right, after a deletion and by the law, ``[2, examples]``.
    """

    kind: str
    wear: npt.NDArray[np.float32]
    meeting: npt.NDArray[np.float32]
    margin: npt.NDArray[np.float32]
    wrong: Bools
    lucky: Bools

    @classmethod
    def drawn(cls, kind: str, ruinous: int, rng: np.random.Generator) -> DecayingNet:
        """Draw a net and the examples that there are.

        Args:
            kind: Of the net.
            ruinous: How many of its blocks are ruinous.
            rng: The source of all randomness.

        Returns:
            The net.
        """
        sizes = rng.gamma(1, 1, BLOCKS) * 4.0 / BLOCKS
        wear = sizes * rng.gamma(0.7, 1 / 0.7, (_BANK, BLOCKS))
        meeting = np.triu(rng.normal(0, 4.0 / BLOCKS, (BLOCKS, BLOCKS)), 1)
        chosen = rng.choice(BLOCKS, ruinous, replace=False)
        wear[:, chosen] = np.where(rng.random((_BANK, ruinous)) < 0.97, 1e3, 0.0)
        return cls(
            kind,
            wear.astype(np.float32),
            (meeting if kind == "erratic" else 0 * meeting).astype(np.float32),
            rng.gamma(2, 0.75, _BANK).astype(np.float32),
            rng.random(_BANK) < 0.08,
            rng.random((2, _BANK)) < 1 / CLASSES,
        )

    def correct(self, members: Bools, chosen: Indices) -> tuple[Bools, Bools]:
        """Return whether examples are right after deletions, and by the law.

        Args:
            members: Which blocks each deletes, ``[sets, blocks]``.
            chosen: Which examples.

        Returns:
            Both ``[sets, examples]``.
        """
        blocks = members.astype(np.float32)
        together = blocks @ self.wear[chosen].T + _pairs(blocks, self.meeting)[:, None]
        return self._right(self._joint(together), blocks @ self._joint(self.wear[chosen]).T, chosen)

    def difference(self, deleted: int, rng: np.random.Generator) -> float:
        """Return predicted less measured accuracy over all examples and sets, from many of both.

        Args:
            deleted: Blocks per set.
            rng: The source of all randomness.

        Returns:
            The mean.
        """
        found = []
        every = np.arange(_BANK)
        for _ in range(_PAIRS // _BANK):
            blocks = drawn_sets(BLOCKS, deleted, _BANK, rng).astype(np.float32)
            together = np.einsum("eb,eb->e", blocks, self.wear) + _pairs(blocks, self.meeting)
            added = np.einsum("eb,eb->e", blocks, self._joint(self.wear))
            measured, predicted = self._right(self._joint(together), added, every)
            found.append(float(predicted.mean()) - float(measured.mean()))
        return float(np.mean(found))

    def _joint(self, sums: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """What a sum of wear does to an example."""
        if self.kind == "redundant":
            return sums**2
        if self.kind == "saturating":
            return np.sqrt(sums)
        return sums

    def _right(
        self,
        together: npt.NDArray[np.float32],
        added: npt.NDArray[np.float32],
        chosen: Indices,
    ) -> tuple[Bools, Bools]:
        fine, margin, lucky = ~self.wrong[chosen], self.margin[chosen], self.lucky[:, chosen]
        return (
            np.where(together > margin, lucky[0], fine),
            np.where(added > margin, lucky[1], fine),
        )


def _pairs(
    blocks: npt.NDArray[np.float32], meeting: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = ((blocks @ meeting) * blocks).sum(axis=1)
    return found


def law_coverage(
    net: DecayingNet,
    deleted: int,
    trials: int,
    rng: np.random.Generator,
    *,
    examples: int = EXAMPLES,
    rounds: int = ROUNDS,
) -> dict[str, float]:
    """Count how often the law's interval holds the true difference.

    Args:
        net: The net.
        deleted: Blocks per set.
        trials: Sets per round.
        rng: The source of all randomness.
        examples: Per round.
        rounds: How many.

    Returns:
        The truth, coverage, mean width, and the shares of rounds in which the law is said to agree
        and to depart.
    """
    truth = net.difference(deleted, rng)
    labels = classes(examples)
    said: list[tuple[bool, float, str]] = []
    for _ in range(rounds):
        chosen = rng.integers(_BANK, size=examples)
        members = drawn_sets(BLOCKS, deleted, trials, rng)
        correct, predicted = net.correct(members, chosen)
        alone, _ = net.correct(np.eye(BLOCKS, dtype=bool), chosen)
        full = ~net.wrong[chosen]
        result = ManyResult(
            run=made_of(correct, full, labels),
            names=tuple(map(str, range(BLOCKS))),
            deleted=tuple(tuple(np.flatnonzero(row).tolist()) for row in members),
            enumerated=(),
            groups=(tuple(range(BLOCKS)),),
            alone=made_of(alone, full, labels),
            # A class that is not the true one stands for every other.
            additive=AdditivePredictions(np.where(predicted, labels, labels + 1), labels),
        )
        law = result.law
        assert law is not None
        (row,) = law.rows
        said.append((row["low"] <= truth <= row["high"], row["high"] - row["low"], row["law"]))
    held, widths, words = zip(*said, strict=True)
    return {
        "truth": truth,
        "coverage": float(np.mean(held)),
        "width": float(np.mean(widths)),
        "agrees": words.count("agrees") / rounds,
        "departs": words.count("departs") / rounds,
    }


@dataclass(frozen=True, eq=False)
class ReorderedNet:
    """Examples, and what moving each block does to each of them.

    Args:
        wear: Per block and place that it is moved, ``[examples, blocks]``.
        uneven: Standard deviation of what an order does beside, in logarithms.
        margin: How much an example stands, ``[examples]``.
        wrong: Whether the full net is wrong, ``[examples]``.
        lucky: Whether a guess is right, ``[examples]``.
    """

    wear: npt.NDArray[np.float32]
    uneven: float
    margin: npt.NDArray[np.float32]
    wrong: Bools
    lucky: Bools

    @classmethod
    def drawn(cls, kind: str, rng: np.random.Generator) -> ReorderedNet:
        """Draw a net and the examples that there are.

        Args:
            kind: One of :data:`ORDERED`.
            rng: The source of all randomness.

        Returns:
            The net.
        """
        sizes = rng.gamma(1, 1, BLOCKS) * 1.0 / BLOCKS
        wear = sizes * rng.gamma(0.7, 1 / 0.7, (_BANK, BLOCKS))
        if kind == "brittle":
            # One block of each stage.
            wear[:, [3, 13, 22]] = np.where(rng.random((_BANK, 3)) < 0.97, 1e3, 0.0)
        return cls(
            wear.astype(np.float32),
            1.0 if kind == "uneven" else 0.0,
            rng.gamma(2, 0.75, _BANK).astype(np.float32),
            rng.random(_BANK) < 0.08,
            rng.random(_BANK) < 1 / CLASSES,
        )

    def correct(self, orders: Sequence[tuple[int, ...]], chosen: Indices) -> Bools:
        """Return whether examples are right in other orders.

        Args:
            orders: The block at each place.
            chosen: Which examples.

        Returns:
            ``[orders, examples]``.
        """
        moved = np.abs(np.array(orders) - np.arange(BLOCKS))
        places = np.zeros(moved.shape, dtype=np.float32)
        np.put_along_axis(places, np.array(orders), moved, axis=1)
        # What an order does beside is its own, and the same whenever it is drawn.
        severity = [
            np.exp(self.uneven * np.random.default_rng(order).normal()) if self.uneven else 1.0
            for order in orders
        ]
        worn = np.array(severity, dtype=np.float32)[:, None] * (places @ self.wear[chosen].T)
        return np.where(worn > self.margin[chosen], self.lucky[chosen], ~self.wrong[chosen])


def exchanged() -> list[tuple[int, int]]:
    """Pairs of places within three stages of nine blocks, the first of the later ones fixed."""
    stages = [range(9), range(10, 18), range(19, 27)]
    return [pair for stage in stages for pair in itertools.combinations(stage, 2)]


def drawn_orders(
    swaps: Sequence[int], trials: int, rng: np.random.Generator
) -> tuple[list[tuple[int, ...]], list[int]]:
    """Draw orders for each number of swaps, as `reorder` does.

    Args:
        swaps: Numbers of swaps.
        trials: Per number.
        rng: The source of all randomness.

    Returns:
        The orders, and how often two blocks were swapped in each.
    """
    pairs = exchanged()
    found, _ = zip(*(draw_swaps(pairs, each, trials, rng) for each in swaps), strict=True)
    orders = [swapped(BLOCKS, sequence) for sequences in found for sequence in sequences]
    counts = [each for each, sequences in zip(swaps, found, strict=True) for _ in sequences]
    return orders, counts


def reorder_coverage(
    net: ReorderedNet,
    swaps: Sequence[int],
    trials: int,
    rng: np.random.Generator,
    *,
    examples: int = EXAMPLES,
    rounds: int = ROUNDS,
) -> dict[str, float]:
    """Count how often the interval of a bin of tau holds the mean over all orders in the bin.

    Args:
        net: The net.
        swaps: Numbers of swaps.
        trials: Sequences per number and round.
        rng: The source of all randomness.
        examples: Per round.
        rounds: How many.

    Returns:
        The mean truth, coverage, mean width and number of bins, over bins and rounds; the least
        coverage of the bins of one rank.
    """
    orders, counts = drawn_orders(swaps, _ORDERS // len(swaps), rng)
    every = np.arange(_BANK)
    bank = ReorderResult(
        made_of(np.ones((len(orders), 1), bool), np.ones(1, bool), classes(1)),
        tuple(map(str, range(BLOCKS))),
        tuple(orders),
        tuple(counts),
        (),
    )
    errors = np.concatenate(
        [1 - net.correct(orders[i : i + 200], every).mean(1) for i in range(0, len(orders), 200)]
    )
    # Every number of swaps has one share, also where there are few sequences of it.
    weights = 1 / np.bincount(counts)[counts]
    labels = classes(examples)
    held: list[list[bool]] = []
    widths: list[float] = []
    truths: list[float] = []
    for _ in range(rounds):
        chosen = rng.integers(_BANK, size=examples)
        drawn, numbers = drawn_orders(swaps, trials, rng)
        result = ReorderResult(
            made_of(net.correct(drawn, chosen), ~net.wrong[chosen], labels),
            bank.names,
            tuple(drawn),
            tuple(numbers),
            (),
        )
        of_round = []
        for row in result.frame.to_dict("records"):
            within = (bank.taus >= row["tau_least"] - 1e-9) & (bank.taus <= row["tau_most"] + 1e-9)
            truth = float(np.average(errors[within], weights=weights[within]))
            of_round.append(bool(row["low"] <= truth <= row["high"]))
            widths.append(row["high"] - row["low"])
            truths.append(truth)
        held.append(of_round)
    bins = max(map(len, held))
    by_rank = [np.mean([each[i] for each in held if i < len(each)]) for i in range(bins)]
    return {
        "truth": float(np.mean(truths)),
        "coverage": float(np.mean(list(itertools.chain(*held)))),
        "least": float(min(by_rank)),
        "width": float(np.mean(widths)),
        "bins": float(np.mean([len(each) for each in held])),
    }


def run(
    folder: Path,
    *,
    nets: Sequence[str] = NETS,
    ruinous: Sequence[int] = RUINOUS,
    deleted: Sequence[int] = DELETED,
    trials: Sequence[int] = TRIALS,
    ordered: Sequence[str] = ORDERED,
    swaps: Sequence[Sequence[int]] = SWAPS,
    rounds: int = ROUNDS,
    seed: int = SEED,
) -> pd.DataFrame:
    """Simulate all combinations and write table and summary.

    Args:
        folder: Where to write.
        nets: Kinds of nets of which blocks are deleted.
        ruinous: Numbers of ruinous blocks.
        deleted: Numbers of deletions.
        trials: Numbers of trials, for deletions and for reorderings.
        ordered: Kinds of nets that are reordered.
        swaps: Numbers of swaps, several together make one study.
        rounds: Per combination.
        seed: Of all randomness.

    Returns:
        A row per combination.
    """
    rows: list[dict[str, Any]] = []
    for number, (kind, count) in enumerate(itertools.product(nets, ruinous)):
        rng = np.random.default_rng([seed, number])
        net = DecayingNet.drawn(kind, count, rng)
        for k, t in itertools.product(deleted, trials):
            found = law_coverage(net, k, t, rng, rounds=rounds)
            rows.append(
                {"study": "law", "net": kind, "ruinous": count, "doses": str(k), "trials": t}
                | found
            )
    for number, kind in enumerate(ordered):
        rng = np.random.default_rng([seed, number, 1])
        reordered = ReorderedNet.drawn(kind, rng)
        for each, t in itertools.product(swaps, trials):
            # A round has several bins, so that fewer do.
            found = reorder_coverage(reordered, each, t, rng, rounds=max(1, rounds // 3))
            doses = " ".join(map(str, each))
            rows.append({"study": "reorder", "net": kind, "doses": doses, "trials": t} | found)
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
    law, reorder = (table[table["study"] == name] for name in ("law", "reorder"))
    return [
        "# Coverage of the intervals of the additive law and of reorderings",
        "",
        f"{made_by('python analyses/law_coverage.py', 'cpu')} Seed {seed}; {rounds:,} rounds per "
        f"combination of the law, so that a coverage has a standard error of {error:.1f} points, "
        f"and {max(1, rounds // 3):,} of reorderings, each with several bins; {EXAMPLES} examples "
        f"each time, nets of {BLOCKS} blocks.",
        "",
        f"Nominal {LEVEL:.0%} intervals of the additive law's predicted less measured accuracy "
        f"after {', '.join(sorted(law['doses'].unique(), key=int))} deletions, with "
        f"{', '.join(f'{n:g}' for n in sorted(law['ruinous'].unique()))} ruinous blocks. *Wrongly "
        "agrees*, *wrongly departs*: the largest share of rounds in which a combination whose true "
        "difference is beyond the margin of 0.10 is said to agree, or one within it to depart.",
        "",
        *markdown_table(
            ("net", "trials", "mean coverage", "least", "mean width", "wrongly agrees", "departs"),
            [
                (
                    net,
                    trials,
                    f"{each['coverage'].mean():.3f}",
                    f"{each['coverage'].min():.3f}",
                    f"{each['width'].mean():.3f}",
                    _most(each[each["truth"].abs() > MARGIN]["agrees"]),
                    _most(each[each["truth"].abs() <= MARGIN]["departs"]),
                )
                for (net, trials), each in law.groupby(["net", "trials"])
            ],
        ),
        "",
        f"Of {len(law)} combinations {int((law['coverage'] < LEVEL - error / 50).sum())} have a "
        f"coverage of more than two standard errors below {LEVEL:.0%}.",
        "",
        f"Nominal {LEVEL:.0%} intervals of the mean error in a bin of Kendall's tau, after "
        f"{' or '.join(f'{doses} swaps' for doses in reorder['doses'].unique())}; *least*: of the "
        "bins of one rank.",
        "",
        *markdown_table(
            ("net", "swaps", "trials", "bins", "coverage", "least", "mean width"),
            [
                (
                    row["net"],
                    row["doses"],
                    row["trials"],
                    f"{row['bins']:.1f}",
                    f"{row['coverage']:.3f}",
                    f"{row['least']:.3f}",
                    f"{row['width']:.3f}",
                )
                for row in reorder.to_dict("records")
            ],
        ),
    ]


def _most(shares: pd.Series[float]) -> str:
    return f"{shares.max():.3f}" if len(shares) else "–"


if __name__ == "__main__":
    target = Path(__file__).with_suffix("")
    run(target)
    print((target / "summary.md").read_text())
