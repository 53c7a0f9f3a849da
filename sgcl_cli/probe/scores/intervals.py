"""Confidence intervals of headlines from their standard errors, and p values of differences.

Intervals are Student's: value minus bias, plus and minus t times the standard error, computed on an unbounded scale (the
logit for shares) so that they stay within the range of the metric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit
from scipy.stats import t as student

from sgcl_cli.probe.scores.resampling import Resampled

_ZERO = 1e-12
_MOST = 700.0


@dataclass(frozen=True)
class Scale:
    """A monotone transformation with its derivative and inverse; ``ends`` are the limits of the metric."""

    to: Callable[[float], float]
    slope: Callable[[float], float]
    back: Callable[[float], float]
    ends: tuple[float, float]


SHARE = Scale(logit, lambda x: 1 / (x * (1 - x)), expit, (0.0, 1.0))
CORRELATION = Scale(np.arctanh, lambda x: 1 / (1 - x**2), np.tanh, (-1.0, 1.0))
POSITIVE = Scale(np.log, lambda x: 1 / x, np.exp, (0.0, np.inf))
BELOW_ONE = Scale(lambda x: -np.log1p(-x), lambda x: 1 / (1 - x), lambda y: -np.expm1(min(-y, _MOST)), (-np.inf, 1.0))
_SCALES = {"spearman": CORRELATION, "r2": BELOW_ONE, "mae": POSITIVE, "brier": POSITIVE}


@dataclass(frozen=True)
class Interval:
    """Low and high end, or None with the reason."""

    low: float | None
    high: float | None
    reason: str = ""


@dataclass(frozen=True)
class Tested:
    """The interval of a difference, and the p value of Student's two-sided t test against 0."""

    interval: Interval
    p: float | None


def scale_of(metric: str) -> Scale:
    """The scale on which the interval of a metric is symmetric; the logit by default."""
    return _SCALES.get(metric, SHARE)


def interval(
    found: Resampled,
    confidence: float,
    *,
    scale: Scale = SHARE,
    witnesses: int = 0,
    unseen: Sequence[tuple[float, float]] = (),
    most_undefined: float = 1.0,
) -> Interval:
    """The interval of a headline; it always contains the headline.

    Resamples of a perfect (or the worst) score have no spread. The other end is then the q with
    q^m = (1 - confidence) / 2, the probability of a perfect score in m independent patients or pairs.

    :param witnesses: m.
    :param unseen: (variance, degrees of freedom) of components that resampling cannot show.
    :param most_undefined: largest share of resamples with an undefined headline.
    """
    why = _why_none(found) or _why_rarely(found, most_undefined)
    if why:
        return Interval(None, None, why)
    if scale is SHARE and not _ZERO < found.value < 1 - _ZERO:
        return _at_the_end(found.value, witnesses, confidence)
    estimate = found.estimate(unseen)
    if estimate.error < _ZERO or found.value in scale.ends:
        return Interval(None, None, "every resample gives the same value")
    slope = scale.slope(found.value)
    centre = scale.to(found.value) - estimate.bias * slope
    half = float(student.ppf((1 + confidence) / 2, estimate.freedom)) * estimate.error * slope
    ends = float(scale.back(centre - half)), float(scale.back(centre + half))
    return Interval(min(*ends, found.value), max(*ends, found.value))


def difference(found: Resampled, confidence: float, unseen: Sequence[tuple[float, float]] = ()) -> Tested:
    """The interval of a difference of two headlines and its p value.

    p is at least 1 / (1 + R), the resolution of R resamples.

    :param unseen: (variance, degrees of freedom) of components that resampling cannot show, such as training seeds.
    """
    why = _why_none(found)
    estimate = found.estimate(unseen) if not why else None
    if estimate is not None and estimate.error < _ZERO:
        if abs(found.value) < _ZERO:
            return Tested(Interval(found.value, found.value), 1.0)
        why = "every resample gives the same difference"
    if estimate is None or why:
        return Tested(Interval(None, None, why), None)
    half = float(student.ppf((1 + confidence) / 2, estimate.freedom)) * estimate.error
    p = 2 * float(student.sf(abs(found.value) / estimate.error, estimate.freedom))
    return Tested(Interval(found.value - half, found.value + half), max(p, least_p(len(found.drawn))))


def least_p(resamples: int) -> float:
    """The smallest p value that this number of resamples can resolve."""
    return 1 / (1 + resamples)


def _why_none(found: Resampled) -> str:
    if np.isnan(found.without).any():
        return "it is not defined without one of the patients"
    return ""


def _why_rarely(found: Resampled, most: float) -> str:
    undefined = float(np.isnan(found.drawn).mean())
    return f"it is not defined in {100 * undefined:.0f} % of the resamples" if undefined > most else ""


def _at_the_end(value: float, witnesses: int, confidence: float) -> Interval:
    if witnesses == 0:
        return Interval(None, None, "every resample gives the same value")
    far = float(((1 - confidence) / 2) ** (1 / witnesses))
    return Interval(far, 1.0) if value > 0.5 else Interval(0.0, 1 - far)
