"""Bootstrap and jackknife of headlines over patients, within folds and strata, and their bias and standard error.

Of the n patients of a stratum n - 1 are drawn with replacement and weighted by n / (n - 1) (Rao, Wu 1988): the bootstrap
variance of a mean is then unbiased, s^2 / n, while n draws give (n - 1) / n of it, half at two patients. The jackknife leaves
out each patient once; it gives the bias and the degrees of freedom.

Shapes: n rows, G patients of a fold, P patients of all folds, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.probe.scores.reported import Floats, Labels, Reported, fold_names


@dataclass(frozen=True)
class Resampled:
    """One headline, or the difference of two, under resampling.

    :ivar drawn: the headline in each resample, (R,), NaN where undefined.
    :ivar without: the headline without each patient, (P,), NaN where undefined.
    :ivar stratum: (P,), distinct in different folds.
    """

    value: float
    drawn: Floats
    without: Floats
    stratum: Labels

    def __sub__(self, other: Resampled) -> Resampled:
        return Resampled(self.value - other.value, self.drawn - other.drawn, self.without - other.without, self.stratum)

    def pairs_with(self, other: Resampled) -> bool:
        """Whether both are means over the same folds, hence over the same patients."""
        return bool(np.array_equal(self.stratum, other.stratum))

    def estimate(self, unseen: Sequence[tuple[float, float]] = ()) -> Estimate:
        """Bias, standard error and degrees of freedom.

        :param unseen: (variance, degrees of freedom) of components that resampling cannot show.
        """
        _, stratum, size = np.unique(self.stratum, return_inverse=True, return_counts=True)
        mean = np.bincount(stratum, self.without) / size
        bias = float(((size - 1) * (mean - self.value)).sum())
        squares = np.bincount(stratum, (self.without - mean[stratum]) ** 2)
        variances = np.append((size - 1) / size * squares, [variance for variance, _ in unseen])
        freedoms = np.append(np.maximum(size - 1, 1), [freedom for _, freedom in unseen])
        total = float(variances.sum())
        known = self.drawn[np.isfinite(self.drawn)]
        drawn = float(np.var(known, ddof=1)) if len(known) > 1 else 0.0
        drawn += sum(variance for variance, _ in unseen)
        spread = float((variances**2 / freedoms).sum())
        freedom = total**2 / spread if spread > 0 else float(freedoms.sum())
        return Estimate(self.value, bias, float(np.sqrt(max(total, drawn))), freedom)


@dataclass(frozen=True)
class Estimate:
    """A headline with its bias and standard error.

    :ivar bias: jackknife estimate of the bias; positive if the value is too high.
    :ivar error: the larger of the bootstrap and the jackknife standard error, over all strata. If patients have several
        classes the former is too small for an AUROC: a patient drawn twice is compared with itself.
    :ivar freedom: degrees of freedom of ``error``, from those of the strata (Satterthwaite 1946).
    """

    value: float
    bias: float
    error: float
    freedom: float


def resample(reported: Reported, resamples: int, seed: int) -> dict[str, Resampled]:
    """The headline of every defined metric under resampling; draws depend only on patients, folds, strata and seed.

    Folds where a metric is undefined are left out of it, as in the headline. If several folds report a patient, as in
    repeated random divisions, a patient is drawn, or left out, in all of them together: such folds are not independent.
    """
    if _patients_shared(reported):
        return _resample_together(reported, resamples, seed)
    values: dict[str, list[float]] = {metric: [] for metric in reported.metrics}
    drawn: dict[str, list[Floats]] = {metric: [] for metric in reported.metrics}
    without: dict[str, list[Floats]] = {metric: [] for metric in reported.metrics}
    strata_of: dict[str, list[Labels]] = {metric: [] for metric in reported.metrics}
    for number, name in enumerate(fold_names(reported)):
        fold = reported.resampler(reported.fold == name)
        patients = len(fold.stratum)
        weights = np.vstack(
            [
                np.ones((1, patients)),
                leave_one_out(fold.stratum),
                draw(fold.stratum, resamples, np.random.default_rng([seed, number])),
            ]
        )
        _, stratum = np.unique(fold.stratum, return_inverse=True)
        for metric, found in fold.scores(weights).items():
            if np.isfinite(found[0]):
                values[metric].append(float(found[0]))
                without[metric].append(found[1 : 1 + patients])
                drawn[metric].append(found[1 + patients :])
                strata_of[metric].append(stratum + (number << 32))
    return {
        metric: _headline(values[metric], drawn[metric], without[metric], strata_of[metric])
        for metric in reported.metrics
        if values[metric]
    }


def _patients_shared(reported: Reported) -> bool:
    names, patient = np.unique(reported.patient, return_inverse=True)
    folds, fold = np.unique(reported.fold, return_inverse=True)
    return len(np.unique(patient * len(folds) + fold)) > len(names)


def _resample_together(reported: Reported, resamples: int, seed: int) -> dict[str, Resampled]:
    everybody = reported.resampler(np.ones(len(reported.patient), dtype=bool))
    names, patients = np.unique(reported.patient), len(everybody.stratum)
    drawn = draw(everybody.stratum, resamples, np.random.default_rng([seed, 0]))
    weights = np.vstack([np.ones((1, patients)), leave_one_out(everybody.stratum), drawn])
    found: dict[str, list[Floats]] = {metric: [] for metric in reported.metrics}
    for name in fold_names(reported):
        mine = reported.fold == name
        scores = reported.resampler(mine).scores(weights[:, np.isin(names, reported.patient[mine])])
        for metric, values in scores.items():
            if np.isfinite(values[0]):
                found[metric].append(values)
    _, stratum = np.unique(everybody.stratum, return_inverse=True)
    return {
        metric: Resampled(float(mean[0]), mean[1 + patients :], mean[1 : 1 + patients], stratum)
        for metric, of_folds in found.items()
        if of_folds
        for mean in [np.mean(of_folds, axis=0)]
    }


def _headline(
    values: Sequence[float], drawn: Sequence[Floats], without: Sequence[Floats], stratum: Sequence[Labels]
) -> Resampled:
    """The mean over folds; leaving out a patient changes only the score of its fold."""
    value = float(np.mean(values))
    moved = [value + (one - of_fold) / len(values) for of_fold, one in zip(values, without, strict=True)]
    return Resampled(value, np.mean(drawn, axis=0), np.concatenate(moved), np.concatenate(stratum))


def average(several: Sequence[Resampled]) -> Resampled:
    """The mean of headlines over the same patients."""
    first = several[0]
    return Resampled(
        float(np.mean([one.value for one in several])),
        np.mean([one.drawn for one in several], axis=0),
        np.mean([one.without for one in several], axis=0),
        first.stratum,
    )


def draw(stratum: Labels, resamples: int, generator: np.random.Generator) -> Floats:
    """Bootstrap weights of the patients, (R, G): n - 1 draws from each stratum of n, times n / (n - 1)."""
    weights = np.zeros((resamples, len(stratum)))
    for value in np.unique(stratum):
        members = np.flatnonzero(stratum == value)
        n = len(members)
        drawn = generator.multinomial(n - 1, np.full(n, 1 / n), resamples) if n > 1 else np.ones((resamples, 1))
        weights[:, members] = drawn * (n / max(n - 1, 1))
    return weights


def leave_one_out(stratum: Labels) -> Floats:
    """Jackknife weights (G, G): row g is 0 for patient g and n / (n - 1) for the other patients of its stratum."""
    weights = np.ones((len(stratum), len(stratum)))
    for value in np.unique(stratum):
        members = np.flatnonzero(stratum == value)
        n = len(members)
        if n > 1:
            weights[np.ix_(members, members)] = n / (n - 1)
            weights[members, members] = 0
    return weights


def strata(counts: NDArray[np.int64]) -> Labels:
    """The stratum (G,) from rows per class (G, K): the class, or K for several; strata of one patient join the largest."""
    stratum: Labels = np.where((counts > 0).sum(1) > 1, counts.shape[1], counts.argmax(1))
    values, sizes = np.unique(stratum, return_counts=True)
    largest = values[sizes.argmax()]
    stratum[np.isin(stratum, values[sizes == 1])] = largest
    return stratum


def mean_of_defined(values: Floats) -> Floats:
    """Mean over axis 0 of the finite values; NaN if there are none."""
    defined = np.isfinite(values)
    count = defined.sum(0)
    total = np.where(defined, values, 0.0).sum(0)
    mean: Floats = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean
