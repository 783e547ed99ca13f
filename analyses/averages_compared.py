"""Nets with branches left out, averaged, against full nets and real ensembles: tables and tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import pandas as pd
from averaged_nets import CALIBRATION, FULL, SCORES, SETS, Ensemble, Outcome, per_image, scores
from calibration_error import Floats, Labels, calibration_gaps
from differences import Difference, direction

from ensemble_view.statistics.crossed import crossed_mean
from ensemble_view.statistics.paired import holm
from ensemble_view.statistics.student import student_interval

RESAMPLES = 1000
"""Of the images, for the calibration error's standard error."""
SEED = 0
"""Of the resamples."""


def score_table(found: Iterable[Outcome], labels: Labels) -> pd.DataFrame:
    """Score what nets say.

    Args:
        found: The outcomes.
        labels: Of the images.

    Returns:
        Two rows per outcome: of a single keep-set, and of all averaged.
    """
    return pd.DataFrame(
        [
            {
                "net": outcome.net,
                "seed": outcome.seed,
                "way": outcome.way.name,
                "left_out": outcome.way.left_out,
                "averaged": averaged,
                **values,
            }
            for outcome in found
            for averaged, values in ((1, outcome.alone), (SETS, scores(outcome.averaged, labels)))
        ]
    )


def ensemble_table(ensembles: Iterable[Ensemble], labels: Labels) -> pd.DataFrame:
    """Score real ensembles.

    Args:
        ensembles: The ensembles.
        labels: Of the images.

    Returns:
        Two rows each: of a single member, and of all averaged.
    """
    return pd.DataFrame(
        [
            {"ensemble": each.name, "averaged": averaged, **values}
            for each in ensembles
            for averaged, values in ((1, each.alone), (each.size, scores(each.averaged, labels)))
        ]
    )


def against_full(table: pd.DataFrame) -> pd.DataFrame:
    """Hold nets with branches left out against the full net, paired by seed.

    Args:
        table: A row per net, seed, way and number averaged.

    Returns:
        A row per net, number averaged, score and way but the full net's, with the difference, its
        t interval and p-value, the p-value by Holm over the ways, and in words which is worse.
    """
    tables = []
    for (net, averaged), rows in table.groupby(["net", "averaged"], sort=False):
        for score in SCORES:
            by_seed = rows.pivot(index="seed", columns="way", values=score)
            differences = {
                way: Difference.over_seeds(by_seed[way] - by_seed[FULL])
                for way in rows["way"].unique()
                if way != FULL
            }
            tables.append(in_words(differences, net=net, averaged=averaged, score=score))
    return pd.concat(tables, ignore_index=True)


def against_ensembles(
    found: Sequence[Outcome], ensembles: Sequence[Ensemble], labels: Labels
) -> pd.DataFrame:
    """Hold nets with branches left out, averaged, and full nets against real ensembles.

    Of scores that are means over the images, images and the net's seeds are crossed (t interval
    after Satterthwaite). The calibration error's standard error is put together from its variance
    over the seeds and that over bootstrap resamples of the images. The ensemble is taken as it is.

    Args:
        found: The outcomes.
        ensembles: The ensembles.
        labels: Of the images.

    Returns:
        A row per ensemble, net, score and way, as `against_full` has them.
    """
    counts = np.random.default_rng(SEED).multinomial(
        len(labels), np.full(len(labels), 1 / len(labels)), size=RESAMPLES
    )
    tables = []
    for real in ensembles:
        for net in dict.fromkeys(outcome.net for outcome in found):
            own = [outcome for outcome in found if outcome.net == net]
            by_way = {
                way: np.stack([each.averaged for each in own if each.way.name == way])
                for way in dict.fromkeys(each.way.name for each in own)
            }
            for score in SCORES:
                differences = {
                    way: (
                        calibration_difference(answers, real.averaged, labels, counts)
                        if score == CALIBRATION
                        else mean_difference(answers, real.averaged, labels, score)
                    )
                    for way, answers in by_way.items()
                }
                tables.append(in_words(differences, ensemble=real.name, net=net, score=score))
    return pd.concat(tables, ignore_index=True)


def in_words(differences: Mapping[str, Difference], **what: object) -> pd.DataFrame:
    """Say of each way which is worse, after Holm over the ways.

    Args:
        differences: By way.
        **what: Columns that say what was compared.

    Returns:
        A row per way.
    """
    table = pd.DataFrame(
        [{**what, "way": way, **asdict(found)} for way, found in differences.items()]
    )
    table["holm"] = holm(table["p_value"].to_numpy())
    table["direction"] = [
        direction(value, p) for value, p in zip(table["value"], table["holm"], strict=True)
    ]
    return table


def mean_difference(answers: Floats, other: Floats, labels: Labels, score: str) -> Difference:
    """Compare a score that is a mean over the images.

    Args:
        answers: Of the nets of all seeds, (seeds, images, classes).
        other: What they are held against, (images, classes).
        labels: (images,).
        score: One of those of `per_image`.

    Returns:
        The difference, with images and seeds crossed.
    """
    against = per_image(other, labels)[score]
    found = crossed_mean([per_image(one, labels)[score] - against for one in answers])
    return Difference(found.value, found.low, found.high, found.p_value)


def calibration_difference(
    answers: Floats, other: Floats, labels: Labels, counts: npt.NDArray[np.int64]
) -> Difference:
    """Compare calibration errors.

    Args:
        answers: Of the nets of all seeds, (seeds, images, classes).
        other: What they are held against, (images, classes).
        labels: (images,).
        counts: How often each resample has each image, (resamples, images).

    Returns:
        The difference; its variance is that of the seeds' mean and that of the resamples added up,
        which counts the seeds' own reaction to the images twice; degrees of freedom are those of
        the seeds. Of one seed, no interval.
    """
    gaps = np.stack([calibration_gaps(each, labels) for each in (other, *answers)])
    shares = np.vstack([np.ones(len(labels)), counts]) / len(labels)
    errors = np.abs(shares @ gaps).sum(axis=2)
    (value, *resampled), by_seed = errors[1:].mean(axis=0) - errors[0], errors[1:, 0]
    if len(by_seed) < 2:
        return Difference(value, np.nan, np.nan, np.nan)
    variance = by_seed.var(ddof=1) / len(by_seed) + np.var(resampled, ddof=1)
    low, high, p_value = student_interval(value, float(variance) ** 0.5, len(by_seed) - 1)
    return Difference(float(value), float(low), float(high), float(p_value))
