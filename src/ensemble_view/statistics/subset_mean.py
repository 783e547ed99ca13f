"""The mean over random subsets of blocks, calibrated by what each block does alone.

Few of the subsets that are drawn hold a block that is ruinous, and these few carry the mean: with
one such block of 27 the crossed interval over ten trials covers .78 to .95 instead of .95, in
simulation (``analyses/trial_coverage``). What each block does alone is known exactly, and so is how
many subsets hold it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.contrasts import last_accepted
from ensemble_view.statistics.paired import NormalisedDrop
from ensemble_view.statistics.range_limits import bounded_limits, unseen
from ensemble_view.statistics.ratios import ratio_mean
from ensemble_view.statistics.student import student_interval
from ensemble_view.statistics.subsets import Subsets

__all__ = ["CalibratedMean", "Survival", "calibrated_mean", "survival"]

Floats = npt.NDArray[np.float64]

_FEWEST_TO_FIT = 8
_MOST_DOUBLINGS = 60
_MOST_LEVERAGE = 0.5
_LEAST_BEND = 1e-6
# Below this share of the largest value, squared, a variance is what rounding leaves.
_ROUNDING = 1e-24


@dataclass(frozen=True, eq=False)
class Survival:
    """What is left of the net in each trial, if every block takes away its share alone.

    Attributes:
        height: from the full net's mean to that of a net that is ruined.
        left: of each trial, the product of what each of its blocks leaves, ``[trials]``.
        mean: of ``left`` over all subsets that might have been drawn.
        mean_square: of its square, likewise.
        doubt: by how much, times ``left - left^2``, the outcomes may bend away from ``height``.
    """

    height: float
    left: Floats
    mean: float
    mean_square: float
    doubt: float


@dataclass(frozen=True, eq=False)
class CalibratedMean:
    """A mean over trials and examples, with what is needed for its interval.

    Attributes:
        value: the estimate.
        of_examples: the estimate for each example; their mean is ``value``.
        trial_variance: of the estimate, by the choice of the trials; 0 where they are all.
        noise: part of the variance that the trials' and the examples' share.
        trial_freedom: degrees of freedom of the former.
        method: how: ``"all"`` (every subset was taken), ``"regression"``, ``"difference"`` (too
            few trials for a regression) or ``"mean"`` (nothing is known of single blocks).
    """

    value: float
    of_examples: Floats
    trial_variance: float
    noise: float
    trial_freedom: int
    method: str

    @property
    def examples(self) -> int:
        """How many there are."""
        return int(self.of_examples.size)

    def minus(self, subtracted: Floats | float) -> CalibratedMean:
        """Give the mean of the outcomes less something that is known of each example.

        Args:
            subtracted: ``[examples]``, or one number.

        Returns:
            The estimate; what is the same in all trials leaves their variance as it is.
        """
        left = self.of_examples - subtracted
        return replace(self, value=float(left.mean()), of_examples=left)

    def times(self, factor: float) -> CalibratedMean:
        """Give the mean of the outcomes times a number.

        Args:
            factor: the number.

        Returns:
            The estimate.
        """
        return replace(
            self,
            value=factor * self.value,
            of_examples=factor * self.of_examples,
            trial_variance=factor**2 * self.trial_variance,
            noise=factor**2 * self.noise,
        )

    @property
    def spread(self) -> tuple[float, float]:
        """Variance of the estimate and its degrees of freedom (Satterthwaite 1946)."""
        of_examples = math.nan
        if self.examples > 1:
            of_examples = float(self.of_examples.var(ddof=1)) / self.examples
        elif self.trial_freedom:
            of_examples = 0.0
        terms = [(max(of_examples, self.noise), max(self.examples - 1, 1))]
        if self.trial_freedom:
            both = self.trial_freedom * max(self.examples - 1, 1)
            terms += [(max(self.trial_variance, self.noise), self.trial_freedom)]
            terms += [(-self.noise, both)]
        variance = sum(term for term, _ in terms)
        largest = float(np.max(np.abs(self.of_examples)))
        if variance <= _ROUNDING * largest**2:
            return 0.0, float(max(self.examples - 1, 1))
        spread = sum(term**2 / freedom for term, freedom in terms)
        return variance, max(1.0, variance**2 / spread)

    def limits(self, level: float = 0.95, *, lowest: float | None = None) -> tuple[float, float]:
        """Give the confidence interval.

        Args:
            level: confidence level, a proportion.
            lowest: 0 where the outcomes are proportions, -1 where they are differences of such,
                None where they may be any numbers.

        Returns:
            The limits, as :func:`~ensemble_view.statistics.range_limits.bounded_limits` gives them,
            or those of Student's t.
        """
        variance, freedom = self.spread
        if lowest is not None:
            return bounded_limits(
                self.value, variance, freedom, self.examples, level, lowest=lowest
            )
        low, high, _ = student_interval(self.value, math.sqrt(variance), freedom, level)
        return float(low), float(high)

    def ratio(
        self, units: Floats, level: float = 0.95, *, proportions: bool = True
    ) -> NormalisedDrop:
        """Give the mean as a share of a mean of the same examples.

        Fieller's interval (1954, Journal of the Royal Statistical Society B 16:175-185): all ratios
        R for which the interval of the mean less R times the units holds zero.

        Args:
            units: denominator of every example, ``[examples]``.
            level: confidence level, a proportion.
            proportions: whether the outcomes are differences of proportions, so that the limits
                leave room for what was not seen.

        Returns:
            Estimate and limits; nan where the interval of the mean unit touches zero, limits nan
            where nothing was sampled twice, infinite where the data set no bound.
        """
        if not ratio_mean(units, level=level).low > 0:
            return NormalisedDrop(math.nan, math.nan, math.nan)
        unit = float(units.mean())
        estimate = self.value / unit
        z2 = float(ndtri((1 + level) / 2)) ** 2 if proportions else 0.0

        def accepted(ratio: float) -> bool:
            variance, freedom = self.minus(ratio * units).spread
            known = float(stdtrit(freedom, (1 + level) / 2)) ** 2 * variance
            room = z2 * unseen(ratio * unit, self.value, self.examples)
            return ((ratio - estimate) * unit) ** 2 <= known + room

        if math.isnan(self.spread[0]):
            return NormalisedDrop(estimate, math.nan, math.nan)
        return NormalisedDrop(
            estimate, _beyond(accepted, estimate, -1.0), _beyond(accepted, estimate, 1.0)
        )


def survival(
    deleted: Sequence[Sequence[int]],
    subsets: Subsets,
    alone: Sequence[float] | Floats,
    baseline: float,
    ruined: float,
) -> Survival | None:
    """Reckon what is left in each trial from what each block does alone.

    Block i alone leaves the share ``s_i = 1 - (alone_i - baseline) / (ruined - baseline)`` of what
    lies between the full net and a ruined one, at least 0; a trial leaves ``prod s_i``. Its mean
    over all subsets of a size is an elementary symmetric polynomial, and so is exact.

    Args:
        deleted: the blocks of each trial, all of one number.
        subsets: what was drawn from.
        alone: the mean score of each block's deletion alone, in the order of the blocks' indices.
        baseline: the full net's.
        ruined: of a net of which nothing is left, such as chance.

    Returns:
        The survival; None where nothing lies between the full net and a ruined one.

    Example:
        >>> found = survival([(0, 1)], Subsets(((0, 1, 2),)), [0.5, 0.1, 0.1], 0.1, 0.9)
        >>> found.left.round(3).tolist(), round(found.mean, 3)
        ([0.5], 0.667)
    """
    height = ruined - baseline
    if not height or not math.isfinite(height):
        return None
    blocks = sorted(block for group in subsets.groups for block in group)
    shares = np.maximum(0.0, 1 - (np.asarray(alone, dtype=np.float64) - baseline) / height)
    factors = dict(zip(blocks, shares.tolist(), strict=True))
    squares = {block: share**2 for block, share in factors.items()}
    taken = len(deleted[0])
    return Survival(
        height=height,
        left=np.array([math.prod(factors[block] for block in each) for each in deleted]),
        mean=subsets.mean_product(factors, taken),
        mean_square=subsets.mean_product(squares, taken),
        doubt=abs(height),
    )


def calibrated_mean(
    table: npt.ArrayLike, known: Survival | None = None, *, trials_fixed: bool = False
) -> CalibratedMean:
    """Estimate the mean of crossed trials and examples over all subsets that might be drawn.

    A difference estimator with a regression on what is left of it (Cochran 1977, Sampling
    Techniques, chapter 7): with ``x`` the survival of a trial (:func:`survival`), the outcomes
    ``y - height (1 - x)`` are regressed on ``x - x^2``, example by example, and the mean is the
    prediction at the known means of both. The first term is exact for a trial that does nothing
    and for one that ruins the net, and the second vanishes at both, so that it bends the curve
    between them, up or down, without a trial that holds a ruinous block. Where fewer than 8 trials,
    or one or two of them, would decide the coefficient, it is taken as 0, and what it may be counts
    as an error: between ``-height`` and ``height``, beyond which more deletions would repair the
    net, all values are held to be equally likely.

    Trials and examples are crossed: with weights w of the trials, the variance is ``sum(w^2)``
    times the residual mean square of the trials, plus that of the examples' estimates over their
    number, less the noise that both hold (as in :func:`~ensemble_view.statistics.crossed.
    crossed_mean`, which this is where nothing is known).

    Args:
        table: outcomes of every trial on every example, ``[trials, examples]``.
        known: of the same trials.
        trials_fixed: whether the trials are all there are.

    Returns:
        The estimate.

    Raises:
        MeasurementError: if the table is not two-dimensional, is empty or not finite.

    Example:
        Two of three blocks do nothing, and no trial has drawn the third, which ruins the net.

        >>> single = Subsets(((0, 1, 2),))
        >>> known = survival([(0,), (1,)], single, [0.0, 0.0, 1.0], 0.0, 1.0)
        >>> round(calibrated_mean(np.zeros((2, 4)), known).value, 3)
        0.333
    """
    y = np.asarray(table, dtype=np.float64)
    if y.ndim != 2 or not y.size or not np.isfinite(y).all():
        raise MeasurementError(
            f"The table has shape {y.shape} and {np.count_nonzero(~np.isfinite(y))} values that "
            "are not finite; expected finite outcomes [trials, examples], at least one of each."
        )
    trials = len(y)
    if trials_fixed or trials == 1:
        return CalibratedMean(float(y.mean()), y.mean(axis=0), 0.0, 0.0, 0, "all")
    design = np.ones((trials, 1))
    if known is not None:
        y = y + known.height * (known.left - known.mean)[:, None]
        bend = known.left - known.left**2 - (known.mean - known.mean_square)
        fitted = np.column_stack([design, bend])
        leverage = np.einsum("tp,pt->t", fitted, np.linalg.pinv(fitted))
        bent = trials >= _FEWEST_TO_FIT and float(np.ptp(bend)) > _LEAST_BEND
        if bent and leverage.max() <= _MOST_LEVERAGE:
            return _regression(y, fitted, "regression")
        found = _regression(y, design, "difference")
        doubt = (known.doubt * float(bend.mean())) ** 2 / 3
        return replace(found, trial_variance=found.trial_variance + doubt)
    return _regression(y, design, "mean")


def _regression(y: Floats, design: Floats, method: str) -> CalibratedMean:
    """The intercept of each example's regression on the trials' covariates."""
    trials, examples = y.shape
    inverse = np.linalg.pinv(design)
    weights = inverse[0]
    coefficients = inverse @ y
    residuals = y - design @ coefficients
    of_trials = residuals.mean(axis=1)
    freedom = trials - design.shape[1]
    square = float(weights @ weights)
    # Trials far from the others bend the curve towards themselves, and their residuals hide it.
    leverage = np.einsum("tp,pt->t", design, inverse)
    scattered = float(np.sum((weights * of_trials / (1 - leverage)) ** 2))
    alike = square * float(of_trials @ of_trials) / freedom
    noise = 0.0
    if examples > 1:
        rest = float(np.sum((residuals - of_trials[:, None]) ** 2))
        noise = square * rest / (freedom * (examples - 1) * examples)
    return CalibratedMean(
        value=float(coefficients[0].mean()),
        of_examples=coefficients[0],
        trial_variance=max(alike, scattered) if design.shape[1] > 1 else alike,
        noise=noise,
        trial_freedom=freedom,
        method=method,
    )


def _beyond(accepted: Callable[[float], bool], inside: float, step: float) -> float:
    """The last ratio that is accepted in a direction."""
    for doubling in range(_MOST_DOUBLINGS):
        outside = inside + step * 2.0 ** (doubling - 20)
        if not accepted(outside):
            return last_accepted(accepted, inside, outside)
    return math.copysign(math.inf, step)
