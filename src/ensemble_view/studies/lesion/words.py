"""What a lesion study says in words and in a table: rows of a frame to text and HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ensemble_view.studies.lesion import sizes
from ensemble_view.study.words import about, shortened

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ACCURACY", "Wording", "by_size", "largest", "mattering", "summary", "text_table"]

_MOST_ROWS = 80
_WIDTH = 80
_P_WIDTH = 8
_LABEL_WIDTH = 13
_MOST_LABELS = 12
_NAME_WIDTH = 40


@dataclass(frozen=True)
class Wording:
    """What a kind of result calls its numbers.

    Attributes:
        value: column of what is measured, and its head in the table.
        effect: column of the change, positive for worse, with its simultaneous limits under
            ``_simultaneous_low`` and ``_simultaneous_high``; and its head.
        change: what the largest change is called: ``"drop"``.
        formats: of value and effect, with their widths.
        test: where the p-values are from.
        worse: what deletion does where the change is positive: ``"costs accuracy"``.
        worsen: the same as an infinitive.
        better: what it does where the change is negative.
        unit: what follows a number of the effect's: ``" nats"``.
    """

    value: tuple[str, str]
    effect: tuple[str, str]
    change: str
    formats: tuple[str, str]
    test: str
    worse: str
    worsen: str
    better: str
    unit: str = ""


ACCURACY = Wording(
    value=("accuracy", "accuracy"),
    effect=("drop", "drop"),
    change="drop",
    formats=("8.4f", "+7.4f"),
    test="McNemar's exact test",
    worse="costs accuracy",
    worsen="cost accuracy",
    better="raises accuracy",
)


def text_table(frame: pd.DataFrame, wording: Wording = ACCURACY, level: float = 0.95) -> str:
    """Lay out the lesions as a table at most 80 columns wide.

    Intervals and p-values are corrected alike: both hold for all lesions of the table at once.

    Args:
        frame: one row per lesion, with the columns of a result's ``frame``.
        wording: which columns to show, and how.
        level: confidence level of the simultaneous intervals, a proportion.

    Returns:
        The table; a star marks lesions that delete a shape-changing block. Beyond 80 lesions the
        middle is left out and said to be.

    Example:
        >>> import pandas as pd
        >>> print(text_table(pd.DataFrame([{
        ...     "blocks": "3", "names": "layer1.3", "accuracy": 0.91, "drop": 0.02,
        ...     "drop_simultaneous_low": 0.011, "drop_simultaneous_high": 0.031,
        ...     "p_adjusted": 0.0004, "changes_shape": False}])))
         block  module                accuracy     drop   95% interval       p (Holm)
             3  layer1.3                0.9100  +0.0200  [+0.0110, +0.0310]     <.001
    """
    width = max([5, *(len(str(label)) for label in frame["blocks"])])
    width = min(width, _LABEL_WIDTH)
    value, effect = (len(format(0.0, spec)) for spec in wording.formats)
    taken = width + 4 + value + 2 + effect + 2 + 2 * effect + 4 + 2 + _P_WIDTH
    module = min(20 - max(0, width - 6), _WIDTH - taken - 2)
    interval = f" {100 * level:g}% interval" if len(frame) < 2 else f"simultaneous {100 * level:g}%"
    head = (
        f"{'block':>{width + 1}}  {'module':<{module}}  {wording.value[1]:>{value}}  "
        f"{wording.effect[1]:>{effect}}  {interval:<{2 * effect + 4}}  p (Holm)"
    )
    rows = [_text_row(row, wording, width, module) for row in frame.to_dict("records")]
    if len(rows) > _MOST_ROWS:
        left_out = len(rows) - _MOST_ROWS + 1
        half = _MOST_ROWS // 2
        rows[half : half + left_out] = [f"{'...':>{width + 1}}  {left_out} more, in .frame"]
    if frame["changes_shape"].any():
        rows.append("* deletes a block that changes the shape (downsampling)")
    return "\n".join([head, *rows])


def _text_row(row: Mapping[Hashable, Any], wording: Wording, width: int, module: int) -> str:
    label = shortened(str(row["blocks"]), width) + ("*" if row["changes_shape"] else " ")
    value, effect = wording.value[0], wording.effect[0]
    ends = ("", "_simultaneous_low", "_simultaneous_high")
    changes = [format(row[f"{effect}{end}"], wording.formats[1]) for end in ends]
    return (
        f"{label:>{width + 2}} {shortened(str(row['names']), module):<{module}}  "
        f"{format(row[value], wording.formats[0])}  {changes[0]}  [{changes[1]}, {changes[2]}]  "
        f"{_p_value(row['p_adjusted']):>{_P_WIDTH}}"
    )


def summary(
    frame: pd.DataFrame,
    *,
    subject: str,
    chance: float,
    level: float,
    examples: int,
    least: tuple[float, float],
) -> str:
    """Say in plain words how large the effects are, which differ from zero, and the largest.

    The classes are those of :mod:`ensemble_view.studies.lesion.sizes`. Costing accuracy: McNemar's
    p-value, corrected over all lesions after Holm, is at most ``1 - level`` and accuracy fell.

    Args:
        frame: one row per lesion, with the columns of ``LesionResult.frame``.
        subject: what was measured on what, to begin the first sentence with.
        chance: accuracy of the best constant guess, a proportion.
        level: confidence level, a proportion.
        examples: how many were measured.
        least: upper limits of error ratio and normalised drop of a lesion that changes no answer.

    Returns:
        A paragraph about this net on these examples.

    Example:
        >>> import pandas as pd
        >>> text = summary(pd.DataFrame([{
        ...     "blocks": "3", "names": "layer1.3", "count": 1, "accuracy": 0.9, "drop": 0.0,
        ...     "drop_simultaneous_low": -0.01, "drop_simultaneous_high": 0.01, "p_adjusted": 1.0,
        ...     "normalised_drop_simultaneous_low": -0.04, "error_ratio": 1.0,
        ...     "error_ratio_simultaneous_low": 0.8, "error_ratio_simultaneous_high": 1.2,
        ...     "size": "small", "changes_shape": False}]),
        ...     subject="net on digits", chance=0.1, level=0.95, examples=797, least=(1.1, 0.01))
        >>> "Of 1 block that keeps the shape: 0 negligible, 1 small, 0 large" in text
        True
    """
    sentences = [f"{subject}."]
    if frame.empty:
        sentences.append("Nothing was lesioned.")
    elif bool(frame["normalised_drop_simultaneous_low"].isna().all()):
        sentences.append(
            f"The full net's accuracy cannot be told from chance ({chance:.1%}), so that no "
            f"{_act(frame)} can be weighed against it: all {len(frame)} are undecided."
        )
    else:
        sentences += by_size(frame, level, least)
    sentences += mattering(frame, level, ACCURACY)
    sentences += largest(frame, ACCURACY)
    sentences.append(about(examples, "examples"))
    return " ".join(sentences)


def by_size(
    frame: pd.DataFrame, level: float, least: tuple[float, float] = (0.0, 0.0)
) -> list[str]:
    """Count the classes of size, shape-changing blocks apart, and say what they mean.

    Args:
        frame: one row per lesion, with ``size`` and ``changes_shape``.
        level: confidence level, a proportion.
        least: upper limits of error ratio and normalised drop of a lesion that changes no answer.

    Returns:
        Sentences.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame([{"blocks": "3", "count": 1, "size": "small",
        ...                        "changes_shape": False}])
        >>> by_size(frame, 0.95)[0]
        'Of 1 block that keeps the shape: 0 negligible, 1 small, 0 large, 0 ruinous, 0 undecided.'
    """
    noun, changes = _noun(frame), frame["changes_shape"].astype(bool)
    clauses = []
    for part, one, many in (
        (frame[~changes], "keeps the shape", "keep the shape"),
        (frame[changes], "changes the shape", "change the shape"),
    ):
        if len(part):
            whole = f"{noun} that {one}" if len(part) == 1 else f"{_plural(noun)} that {many}"
            clauses.append(f"of {len(part)} {whole}: {sizes.listed_sizes(part['size'])}")
    text = "; ".join(clauses)
    meaning = sizes.definition(level, len(frame), _act(frame), *least)
    return [f"{text[0].upper()}{text[1:]}.", meaning]


def largest(frame: pd.DataFrame, wording: Wording) -> list[str]:
    """Name the largest effect, with its simultaneous limits and what the error becomes.

    Args:
        frame: one row per lesion, with the column of the effect and its simultaneous limits.
        wording: which column, and the words.

    Returns:
        A sentence, or none if nothing was lesioned.

    Example:
        >>> import pandas as pd
        >>> largest(pd.DataFrame([{
        ...     "blocks": "3", "names": "h.3", "count": 1, "drop": 0.1, "accuracy": 0.5,
        ...     "drop_simultaneous_low": 0.05, "drop_simultaneous_high": 0.15,
        ...     "error_ratio": 1.25, "error_ratio_simultaneous_low": 1.1,
        ...     "error_ratio_simultaneous_high": 1.4}]), ACCURACY)[0][:63]
        'The largest drop is that of block 3 (h.3): +10.0 accuracy point'
    """
    if frame.empty or not frame[wording.effect[0]].notna().any():
        return []
    row = frame.iloc[int(frame[wording.effect[0]].argmax())]
    ends = ("", "_simultaneous_low", "_simultaneous_high")
    limits = [float(row[f"{wording.effect[0]}{end}"]) for end in ends]
    what = str(row["blocks"])
    if _act(frame) == "deletion":
        what = f"{_noun(frame)} {what} ({shortened(str(row['names']), _NAME_WIDTH)})"
    text = f"The largest {wording.change} is that of {what}: "
    if wording.effect[0] != "drop":
        numbers = [format(value, wording.formats[1]).strip() for value in limits]
        return [f"{text}{numbers[0]} [{numbers[1]}, {numbers[2]}]{wording.unit}."]
    points = [f"{100 * value:+.1f}" for value in limits]
    text += f"{points[0]} accuracy points [{points[1]}, {points[2]}], error "
    after = 1 - float(row["accuracy"])
    text += f"from {max(0.0, after - limits[0]):.1%} to {after:.1%}"
    if math.isfinite(row["error_ratio"]):
        ratios = [f"{row[f'error_ratio{end}']:.3g}" for end in ends]
        text += f", {ratios[0]} times as high [{ratios[1]}, {ratios[2]}]"
    return [f"{text}."]


def mattering(frame: pd.DataFrame, level: float, wording: Wording) -> list[str]:
    """Say which lesions make things significantly worse, and which better, and of which size.

    Args:
        frame: one row per lesion, with ``p_adjusted``, the column of the effect and, where there is
            one, the class of its size.
        level: confidence level, a proportion.
        wording: which column, and the words.

    Returns:
        Sentences.

    Example:
        >>> import pandas as pd
        >>> frame = pd.DataFrame([{"blocks": "3", "count": 1, "drop": 0.1, "p_adjusted": 0.01}])
        >>> mattering(frame, 0.95, ACCURACY)[0][-45:]
        'correction over 1, p <= 0.05) for 1 block: 3.'
    """
    noun = _noun(frame)
    significant = frame["p_adjusted"] <= 1 - level
    worse = list(frame[significant & (frame[wording.effect[0]] > 0)]["blocks"])
    better = list(frame[significant & (frame[wording.effect[0]] < 0)]["blocks"])
    rule = f"{wording.test}, Holm's correction over {len(frame)}, p <= {1 - level:.2g}"
    sentences = []
    if worse:
        whole = _counted(worse, noun)
        if len(worse) == len(frame) > 1:
            whole = f"all {len(worse)} {_plural(noun)}"
        if "size" in frame:
            of_these = frame[significant & (frame[wording.effect[0]] > 0)]["size"]
            whole += f"; by size, {sizes.listed_sizes(of_these, zeros=False)}"
        sentences.append(f"{_act(frame).capitalize()} {wording.worse} ({rule}) for {whole}.")
    elif len(frame):
        sentences.append(f"No {_act(frame)} is shown to {wording.worsen} ({rule}).")
    if better:
        sentences.append(f"It {wording.better} for {_counted(better, noun)}.")
    return sentences


def _noun(frame: pd.DataFrame) -> str:
    return "block" if bool((frame["count"] == 1).all()) else "set of blocks"


def _act(frame: pd.DataFrame) -> str:
    """What was done: blocks were deleted, or what the label says in words."""
    deleted = all(re.fullmatch(r"[\d,-]+", str(label)) for label in frame["blocks"])
    return "deletion" if deleted else "intervention"


def _counted(labels: Sequence[str], noun: str) -> str:
    return f"{len(labels)} {noun if len(labels) == 1 else _plural(noun)}: {_listed(labels)}"


def _plural(noun: str) -> str:
    return "sets of blocks" if noun == "set of blocks" else f"{noun}s"


def _listed(labels: Sequence[str]) -> str:
    separator = "; " if any("," in label for label in labels) else ", "
    shown = separator.join(labels[:_MOST_LABELS])
    more = len(labels) - _MOST_LABELS
    return shown if more <= 0 else f"{shown} and {more} more"


def _p_value(p: float) -> str:
    return "<.001" if p < 0.001 else f"{p:.3f}"
