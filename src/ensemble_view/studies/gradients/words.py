"""What gradients by path length say in words and in a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ensemble_view.study.words import about, shortened_count

if TYPE_CHECKING:
    from ensemble_view.studies.gradients.result import GradientsByLength

__all__ = ["NAMES", "summary", "table"]

NAMES = {
    "projected": "projected (share of the gradient, mean over examples)",
    "pooled": "pooled (share of the gradient, ratio of sums over examples)",
    "summed": "norm of the sum",
    "energy": "energy (sum of squared norms)",
    "sampled": "number of paths × mean norm",
}
"""What each weighting is called, in the order in which they are told."""

_HEADS = {
    "summed_norm": "summed",
    "projected": "projected",
    "energy": "energy",
    "energy_se": "± s.e.",
    "sampled_mean": "mean norm",
    "coherence": "coherence",
}


def table(result: GradientsByLength) -> str:
    """Lay out a result as a table.

    Args:
        result: gradients by path length.

    Returns:
        The table, without the columns of methods that did not run; a question mark stands at an
        energy whose error is not reliable. Lengths that carry less than a millionth of every
        weighting are left out and said to be.
    """
    columns = [
        name for name in _HEADS if any(getattr(row, name) is not None for row in result.rows)
    ]
    head = f"{'length':>6} {'paths':>10}" + "".join(f" {_HEADS[name]:>9}" for name in columns)
    lines = [head]
    weights = list(result.weights.values())
    heavy = [
        row.length
        for row in result.rows
        if not weights or any(abs(each[row.length]) >= 1e-6 for each in weights)
    ]
    shown = result.rows[heavy[0] : heavy[-1] + 1] if heavy else result.rows
    for row in shown:
        line = f"{row.length:>6} {shortened_count(row.paths, 9):>10}"
        for name in columns:
            value = getattr(row, name)
            mark = "?" if name == "energy_se" and row.energy_reliable is False else ""
            line += f" {'' if value is None else format(value, '.3g') + mark:>9}"
        lines.append(line.rstrip())
    left_out = len(result.rows) - len(shown)
    if left_out:
        lines.append(
            f"{'...':>6}  {left_out} more lengths, under a millionth of each weighting, in .frame"
        )
    if any(row.energy_reliable is False for row in shown):
        lines.append("? the groups are skewed: this error is not reliable")
    return "\n".join(lines)


def summary(result: GradientsByLength) -> str:
    """Say which lengths carry the gradient, by each weighting, and how far these differ.

    Args:
        result: gradients by path length.

    Returns:
        A paragraph about this net on these examples.
    """
    net = result.provenance.model.get("name", "the net")
    data = result.provenance.data.get("name", "the data")
    unit = result.settings.unit.removesuffix("s")
    place = "the model's input" if result.settings.at == "input" else result.settings.at
    place = f"the input of {place}" if place.startswith("block") else place
    subject = (
        f"{net}, {_counted(result.cost.examples, unit)} of {data}, gradient of "
        f"{result.settings.loss} at {place}, over paths of 0 to {result.blocks} branches"
    )
    if result.interrupted:
        subject += " (interrupted: these are the examples done so far)"
    sentences = [f"{subject}."]
    if result.settings.batchnorm == "training":
        sentences.append(
            f"BatchNorm took the statistics of each batch of {result.provenance.batch_size}, and "
            "norms are those of a batch."
        )
        unit = "batch"
    for name, words in NAMES.items():
        if name in result.effective:
            found = result.effective[name]
            limits = {"projected": result.projected_mean, "pooled": result.pooled_mean}.get(name)
            known = "" if limits is None else f" (interval {limits[0]:.1f} to {limits[1]:.1f})"
            sentences.append(
                f"By {words}, the mean length is {found.mean:.1f}{known}, and 95 % of the weight "
                f"lies on lengths {found.low} to {found.high}, which are "
                f"{100 * found.share_of_paths:.3g} % of all paths."
            )
    if result.negative_mass is not None:
        sentences.append(f"Paths against the gradient: {100 * result.negative_mass:.2g} % of it.")
    if result.undefined:
        sentences.append(
            f"{_counted(result.undefined, unit)} without any gradient could not be shared out."
        )
    sentences += _overstated(result)
    unreliable = [row.length for row in result.rows if row.energy_reliable is False]
    if unreliable:
        sentences.append(
            f"The error of the energy is not reliable at {_counted(len(unreliable), 'length')}."
        )
    if result.untrained is not None:
        sentences.append(_beside(result.untrained))
    sentences.append(about(result.cost.examples, result.settings.unit))
    return " ".join(sentences)


def _beside(untrained: GradientsByLength) -> str:
    """The untrained net's lengths, which a trained net's are to be held against."""
    spans = [
        f"{found.mean:.1f} ({found.low} to {found.high}) by {words}"
        for name, words in NAMES.items()
        if (found := untrained.effective.get(name)) is not None
    ]
    how = untrained.provenance.model.get("untrained", "the untrained net")
    told = "; ".join(spans) if spans else "none, since it has no gradient"
    return f"Before training ({how}), mean length and 95 % of the weight: {told}."


def _overstated(result: GradientsByLength) -> list[str]:
    """How far the paper's figure 6(c) lies above the exact gradient, where its own weight lies."""
    if "sampled" not in result.effective:
        return []
    span = result.effective["sampled"]
    factors = [each for each in result.overstatement[span.low : span.high + 1] if each is not None]
    if not factors:
        return []
    return [
        f"Number of paths × mean norm, which takes the paths of a length to point one way, is "
        f"{min(factors):.3g} to {max(factors):.3g} times the exact norm of their sum at lengths "
        f"{span.low} to {span.high}."
    ]


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{_plural(noun)}"


def _plural(noun: str) -> str:
    return "es" if noun.endswith(("ch", "sh")) else "s"
