"""Coverage of the intervals of ``sgcl evaluate``, and the false positive rate of its tests.

    python benchmarks/coverage.py                 # the table of docs/evaluate.md; some minutes on one core
    python benchmarks/coverage.py --sets 50       # a first look

Predictions are drawn from distributions with known AUROC, balanced accuracy, macro F1, C-index, R2, mean absolute error and
rank correlation; resampling, intervals and tests are those of the package. One design fits linear discriminants instead, so
that folds share training rows; its truth is the score of the fitted models on new patients. "Before" is the percentile
interval of n draws from n patients, on the same sets.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from scipy.stats import norm

from sgcl_cli.probe.scores import (
    calibration,
    comparison,
    intervals,
    measurements,
    metrics,
    survival,
    thresholds,
    uncertainty,
)
from sgcl_cli.probe.scores.reported import Reported, fold_names, why_no_interval
from sgcl_cli.probe.scores.resampling import Resampled, mean_of_defined, resample

Floats = NDArray[np.float64]
Generator = np.random.Generator
MODELS = 3
CONFIDENCE = 0.95
NAMES = {
    "auroc": "AUROC",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "brier": "Brier score",
    "c_index": "C-index",
    "r2": "R²",
    "mae": "Mean absolute error",
    "spearman": "Spearman correlation",
}
CLASSES = ("auroc", "balanced_accuracy", "macro_f1")


@dataclass(frozen=True)
class Design:
    """A cohort and its division; ``make`` draws the predictions of three equally good models, with the true metrics."""

    name: str
    make: Callable[[Generator], tuple[list[Reported], dict[str, float]]]


def dealt(classes: NDArray[np.int64], folds: int, generator: Generator) -> NDArray[np.int64]:
    """A fold for each patient, stratified: patients sorted by class are assigned to the folds in turn."""
    fold = np.empty(len(classes), dtype=np.int64)
    order = np.concatenate([generator.permutation(np.flatnonzero(classes == one)) for one in np.unique(classes)])
    fold[order] = np.arange(len(classes)) % folds
    return fold


def of_classes(counts: Sequence[int], folds: int, *, rows: int = 1, mixed: bool = False, signal: float = 1.5) -> Any:
    """Scores that are normal around the mean of a class; with several rows half of the variance is between patients.

    :param counts: patients of each class; with ``mixed`` every patient has rows of both classes.
    """
    patients, share = sum(counts), counts[1] / sum(counts)
    within = 0.5 if rows > 1 else 0.0
    right = norm.cdf(signal / 2)
    called = share * right + (1 - share) * (1 - right)
    f1 = [2 * part * right / (part + all_called) for part, all_called in ((share, called), (1 - share, 1 - called))]
    truth = {"auroc": norm.cdf(signal / np.sqrt(2)), "balanced_accuracy": right, "macro_f1": float(np.mean(f1))}

    def make(generator: Generator) -> tuple[list[Reported], dict[str, float]]:
        kind = np.repeat([0, 1], counts)
        owner = np.repeat(np.arange(patients), rows)
        label = (generator.random(patients * rows) < share).astype(np.int64) if mixed else kind[owner]
        fold = dealt(np.zeros_like(kind) if mixed else kind, folds, generator)[owner].astype(str)
        names = np.char.add("p", owner.astype(str))
        common = np.sqrt(within) * generator.normal(size=patients)[owner]
        common += np.sqrt(1 - within) * generator.normal(size=len(owner))
        models: list[Reported] = []
        for _ in range(MODELS):
            own = np.sqrt(within) * generator.normal(size=patients)[owner]
            own += np.sqrt(1 - within) * generator.normal(size=len(owner))
            positive = expit(signal * (signal * (label - 0.5) + np.sqrt(0.5) * (common + own)))
            models.append(metrics.Predictions(label, np.stack([1 - positive, positive], 1), fold, names, ("a", "b")))
        return models, truth

    return make


def of_several(count: int, classes: int, folds: int, *, signal: float = 1.5) -> Any:
    """``count`` slides of each of several classes; each class is shifted along a separate axis."""

    def shown(generator: Generator, n: int, common: Floats | None = None) -> tuple[NDArray[np.int64], Floats]:
        label = np.repeat(np.arange(classes), n)
        noise = generator.normal(size=(len(label), classes))
        noise = noise if common is None else np.sqrt(0.5) * (noise + common)
        return label, softmax(signal * (signal * np.eye(classes)[label] + noise), axis=1)

    names = tuple("abcdef"[:classes])
    label, probability = shown(np.random.default_rng(0), 20_000)
    truth = {metric: float(metrics.score(metric, label, probability, names).value or 0) for metric in CLASSES}

    def make(generator: Generator) -> tuple[list[Reported], dict[str, float]]:
        common = generator.normal(size=(count * classes, classes))
        models: list[Reported] = []
        fold = dealt(np.repeat(np.arange(classes), count), folds, generator).astype(str)
        patient = np.char.add("p", np.arange(count * classes).astype(str))
        for _ in range(MODELS):
            label, probability = shown(generator, count, common)
            models.append(metrics.Predictions(label, probability, fold, patient, names))
        return models, truth

    return make


def of_tissues(patients: int, held: Sequence[float], folds: int, *, rows: int = 45, signal: float = 1.5) -> Any:
    """Patches of several classes; each patient has some of them, and half of the variance is between patients.

    :param held: share of the patients that have each class; at least two in every fold, and five in all.
    """
    classes = len(held)
    names = tuple("abcdef"[:classes])

    def noise(generator: Generator, owner: NDArray[np.int64]) -> Floats:
        of_patients = generator.normal(size=(owner.max() + 1, classes))[owner]
        return np.sqrt(0.5) * (of_patients + generator.normal(size=(len(owner), classes)))

    def predicted(label: NDArray[np.int64], noise: Floats) -> Floats:
        probability: Floats = softmax(signal * (signal * np.eye(classes)[label] + noise), axis=1)
        return probability

    large = np.repeat(np.arange(classes), 40_000)
    at_large = predicted(large, np.random.default_rng(0).normal(size=(len(large), classes)))
    truth = {metric: float(metrics.score(metric, large, at_large, names).value or 0) for metric in CLASSES[:2]}

    def make(generator: Generator) -> tuple[list[Reported], dict[str, float]]:
        holds, fold = np.zeros((patients, classes), dtype=bool), np.arange(patients) % folds
        while holds.sum(0).min() < 5 or min(holds[fold == one].sum(0).min() for one in range(folds)) < 2:
            holds = generator.random((patients, classes)) < np.array(held)
            holds[~holds.any(1), -1] = True
        owner = np.repeat(np.arange(patients), rows)
        label = np.concatenate([generator.choice(np.flatnonzero(one), rows) for one in holds])
        common = noise(generator, owner)
        models: list[Reported] = []
        for _ in range(MODELS):
            probability = predicted(label, np.sqrt(0.5) * (common + noise(generator, owner)))
            patient = np.char.add("p", owner.astype(str))
            models.append(metrics.Predictions(label, probability, fold[owner].astype(str), patient, names))
        return models, truth

    return make


def of_decisions(counts: Sequence[int], folds: int, *, signal: float = 1.5) -> Any:
    """Decisions at the midpoint between two classes."""
    right, share = norm.cdf(signal / 2), counts[1] / sum(counts)
    called = share * right + (1 - share) * (1 - right)
    truth = {"sensitivity": right, "specificity": right}
    truth |= {"ppv": share * right / called, "npv": (1 - share) * right / (1 - called)}

    def make(generator: Generator) -> tuple[list[Reported], dict[str, float]]:
        positive = np.repeat([False, True], counts)
        fold = dealt(positive.astype(np.int64), folds, generator).astype(str)
        names = np.char.add("p", np.arange(len(positive)).astype(str))
        common = signal * (positive - 0.5) + np.sqrt(0.5) * generator.normal(size=len(positive))
        models: list[Reported] = [
            thresholds.Decisions(
                positive, common + np.sqrt(0.5) * generator.normal(size=len(positive)) > 0, fold, names
            )
            for _ in range(MODELS)
        ]
        return models, truth

    return make


def of_probabilities(counts: Sequence[int], folds: int, *, signal: float = 1.5) -> Any:
    """Calibrated probabilities, with their Brier score."""
    plain = of_classes(counts, folds, signal=signal)
    grid = np.linspace(-8, 8, 20_001)
    truth = {"brier": float((expit(signal * -grid) ** 2 * norm.pdf(grid - signal / 2)).sum() * (grid[1] - grid[0]))}

    def make(generator: Generator) -> tuple[list[Reported], dict[str, float]]:
        models, _ = plain(generator)
        return [calibration.Calibrated(m.truth, m.probability, m.fold, m.patient, m.classes) for m in models], truth

    return make


def of_fits(counts: Sequence[int], folds: int, *, width: int = 10, signal: float = 2.0) -> Any:
    """Linear discriminants fitted on the other folds, each model on ``width`` separate features."""
    centre = np.zeros(width)
    centre[0] = signal / 2

    def make(generator: Generator) -> tuple[list[Reported], dict[str, float]]:
        label = np.repeat([0, 1], counts)
        fold = dealt(label, folds, generator)
        models: list[Reported] = []
        reached: list[dict[str, float]] = []
        for _ in range(MODELS):
            features = generator.normal(size=(len(label), width)) + np.where(label[:, None] == 1, centre, -centre)
            score = np.empty(len(label))
            of_folds = []
            for one in range(folds):
                fitted = fold != one
                means = [features[fitted & (label == c)].mean(0) for c in (0, 1)]
                weight, middle = means[1] - means[0], (means[0] + means[1]) / 2
                score[~fitted] = (features[~fitted] - middle) @ weight
                of_folds.append(_reached(weight, middle, centre))
            positive = expit(score)
            names = np.char.add("p", np.arange(len(label)).astype(str))
            probability = np.stack([1 - positive, positive], 1)
            models.append(metrics.Predictions(label, probability, fold.astype(str), names, ("a", "b")))
            reached.append({metric: float(np.mean([one[metric] for one in of_folds])) for metric in of_folds[0]})
        return models, reached[0]

    return make


def _reached(weight: Floats, middle: Floats, centre: Floats) -> dict[str, float]:
    """AUROC and balanced accuracy of a linear score on new patients of two normal classes at ``centre`` and ``-centre``."""
    length = np.linalg.norm(weight)
    apart, shift = 2 * weight @ centre / length, weight @ middle / length
    right = [norm.cdf(apart / 2 - shift), norm.cdf(apart / 2 + shift)]
    return {"auroc": norm.cdf(apart / np.sqrt(2)), "balanced_accuracy": float(np.mean(right))}


def of_times(patients: int, events: float, folds: int) -> Any:
    """Exponential times with a normal log hazard, risks with half of their variance from it, and a share of events."""

    def rows(generator: Generator, n: int, models: int) -> tuple[Floats, NDArray[np.int64], list[Floats]]:
        hazard = generator.normal(size=n)
        happens = generator.exponential(np.exp(-hazard))
        ends = generator.exponential(events / (1 - events), size=n)
        risks = [hazard + generator.normal(size=n) for _ in range(models)]
        return np.minimum(happens, ends), (happens <= ends).astype(np.int64), risks

    time, event, risks = rows(np.random.default_rng(0), 12_000, 1)
    truth = {"c_index": float(survival.c_index(time, event, risks[0]).value or 0)}

    def make(generator: Generator) -> tuple[list[Reported], dict[str, float]]:
        time, event, risks = rows(generator, patients, MODELS)
        fold = dealt(event, folds, generator).astype(str)
        names = np.char.add("p", np.arange(patients).astype(str))
        return [survival.Risks(time, event, risk, fold, names) for risk in risks], truth

    return make


def of_values(patients: int, folds: int) -> Any:
    """Normal measurements, predicted with normal errors of half their variance."""
    error = np.sqrt(0.5)
    correlation = 1 / np.sqrt(1 + error**2)
    truth = {
        "r2": 1 - error**2,
        "mae": error * np.sqrt(2 / np.pi),
        "spearman": 6 / np.pi * np.arcsin(correlation / 2),
    }

    def make(generator: Generator) -> tuple[list[Reported], dict[str, float]]:
        value = generator.normal(size=patients)
        rank = value.argsort().argsort()
        fold = dealt(rank * 4 // patients, folds, generator).astype(str)
        names = np.char.add("p", np.arange(patients).astype(str))
        common = generator.normal(size=patients)
        models: list[Reported] = [
            measurements.Values(
                value, value + error * np.sqrt(0.5) * (common + generator.normal(size=patients)), fold, names
            )
            for _ in range(MODELS)
        ]
        return models, truth

    return make


DESIGNS = [
    Design("14 patients x 30 rows, one class each, 3 folds", of_classes((7, 7), 3, rows=30)),
    Design("14 patients x 30 rows, both classes each, 3 folds", of_classes((7, 7), 3, rows=30, mixed=True)),
    Design("12 patients x 30 rows, both classes each, 5 folds", of_classes((6, 6), 5, rows=30, mixed=True)),
    Design("30 patients x 30 rows, both classes each, 5 folds", of_classes((15, 15), 5, rows=30, mixed=True)),
    Design("12 patients, one class each, 5 folds", of_classes((6, 6), 5)),
    Design("12 patients, one class each, 2 folds (automatic)", of_classes((6, 6), 2)),
    Design("10 + 30 slides, 5 folds", of_classes((30, 10), 5)),
    Design("10 + 30 slides, 2 folds (automatic)", of_classes((30, 10), 2)),
    Design("8 + 80 slides, 2 folds (automatic)", of_classes((80, 8), 2)),
    Design("20 + 20 slides, 5 folds", of_classes((20, 20), 5)),
    Design("20 + 20 slides, 5 folds, AUROC 0.98", of_classes((20, 20), 5, signal=3.0)),
    Design("20 + 20 slides, 5 folds, AUROC 0.5", of_classes((20, 20), 5, signal=1e-6)),
    Design("20 + 20 slides, 5 folds, fitted", of_fits((20, 20), 5)),
    Design("15 + 15 slides, one split", of_classes((15, 15), 1)),
    Design("50 + 50 slides, 5 folds", of_classes((50, 50), 5)),
    Design("50 + 50 slides, 5 folds, fitted", of_fits((50, 50), 5)),
    Design("100 + 100 slides, 5 folds", of_classes((100, 100), 5)),
    Design("15 + 15 + 15 slides, 3 classes, 3 folds", of_several(15, 3, 3)),
    Design("10 + 10 + 10 + 10 slides, 4 classes, 2 folds (automatic)", of_several(10, 4, 2)),
    Design("14 patients x 45 patches of 4 tissues, one in half of them, 3 folds", of_tissues(14, (0.5, 1, 1, 1), 3)),
    Design("14 patients x 45 patches of 4 tissues, each in 60 %, 3 folds", of_tissues(14, (0.6,) * 4, 3)),
    Design("30 patients x 45 patches of 5 tissues, each in 60 %, 5 folds", of_tissues(30, (0.6,) * 5, 5)),
    Design("20 + 20 slides, 5 folds, decisions", of_decisions((20, 20), 5)),
    Design("40 + 20 slides, one split, decisions", of_decisions((40, 20), 1)),
    Design("20 + 20 slides, 5 folds, probabilities", of_probabilities((20, 20), 5)),
    Design("survival, 40 patients, 60 % events, 5 folds", of_times(40, 0.6, 5)),
    Design("survival, 60 patients, 30 % events, 4 folds", of_times(60, 0.3, 4)),
    Design("survival, 100 patients, 50 % events, 5 folds", of_times(100, 0.5, 5)),
    Design("survival, 50 patients, 50 % events, one split", of_times(50, 0.5, 1)),
    Design("measurements, 20 patients, 5 folds", of_values(20, 5)),
    Design("measurements, 40 patients, 5 folds", of_values(40, 5)),
    Design("measurements, 100 patients, 5 folds", of_values(100, 5)),
    Design("measurements, 30 patients, one split", of_values(30, 1)),
]


@dataclass
class Tally:
    """Counts over the sets of one design and metric.

    :ivar given: sets with an interval.
    :ivar held: intervals that contain the truth.
    :ivar before: percentile intervals that contain the truth.
    :ivar width: sum of the widths.
    :ivar pairs: pairs of models with a p value.
    :ivar false: of these, with p below 0.05.
    :ivar families: sets where all pairs have a p value.
    :ivar false_family: of these, with the least p after Holm below 0.05.
    :ivar reason: why there is no interval.
    """

    sets: int = 0
    given: int = 0
    held: int = 0
    before: int = 0
    width: float = 0.0
    pairs: int = 0
    false: int = 0
    families: int = 0
    false_family: int = 0
    reason: str = ""

    def cells(self) -> list[str]:
        """The cells of the table."""
        if self.given < self.sets / 2:
            return [_share(self.before, self.sets), f"none: {self.reason}", "", _share(self.false, self.pairs), ""]
        mean = f"{self.width / self.given:.2f}"
        family = _share(self.false_family, self.families)
        cover = _share(self.held, self.given) + ("" if self.given == self.sets else f" of {self.given}")
        return [_share(self.before, self.sets), cover, mean, _share(self.false, self.pairs), family]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "–"


def tallied(design: Design, sets: int, resamples: int, seed: int = 0) -> dict[str, Tally]:
    """Simulate a design; counts by metric."""
    generator = np.random.default_rng([seed, *design.name.encode()])
    found: dict[str, Tally] = {}
    for number in range(sets):
        models, truth = design.make(generator)
        sampled = [resample(model, resamples, number) for model in models]
        before = percentiles(models[0], resamples, generator)
        for metric, value in truth.items():
            tally = found.setdefault(metric, Tally())
            tally.sets += 1
            tally.before += before[metric][0] <= value <= before[metric][1]
            _count(tally, models[0], metric, [one[metric] for one in sampled], truth=value, resamples=resamples)
    return found


def _count(
    tally: Tally, reported: Reported, metric: str, sampled: Sequence[Resampled], *, truth: float, resamples: int
) -> None:
    why = why_no_interval(reported, metric, resamples)
    if why:
        tally.reason = why
        return
    interval = uncertainty.interval_of(reported, metric, sampled[0], CONFIDENCE)
    if interval.low is None or interval.high is None:
        tally.reason = interval.reason
    else:
        tally.given += 1
        tally.held += interval.low <= truth <= interval.high
        tally.width += interval.high - interval.low
    pairs = [pair for pair in combinations(sampled, 2) if pair[0].pairs_with(pair[1])]
    tests = [intervals.difference(other - one, CONFIDENCE).p for one, other in pairs]
    known = [p for p in tests if p is not None]
    tally.pairs += len(known)
    tally.false += sum(p < 1 - CONFIDENCE for p in known)
    if len(known) == len(tests):
        tally.families += 1
        tally.false_family += min(comparison.holm(known)) < 1 - CONFIDENCE


def percentiles(reported: Reported, resamples: int, generator: Generator) -> dict[str, tuple[float, float]]:
    """Percentile intervals of headlines, from n draws from the n patients of each stratum."""
    of_folds: dict[str, list[Floats]] = {metric: [] for metric in reported.metrics}
    for name in fold_names(reported):
        fold = reported.resampler(reported.fold == name)
        weights = np.zeros((resamples, len(fold.stratum)))
        for one in np.unique(fold.stratum):
            members = np.flatnonzero(fold.stratum == one)
            n = len(members)
            weights[:, members] = generator.multinomial(n, np.full(n, 1 / n), resamples)
        for metric, values in fold.scores(weights).items():
            of_folds[metric].append(values)
    tail = 50 * (1 - CONFIDENCE)
    headlines = {metric: mean_of_defined(np.stack(values)) for metric, values in of_folds.items()}
    return {
        metric: tuple(np.nanpercentile(values, [tail, 100 - tail])) if np.isfinite(values).any() else (np.nan, np.nan)
        for metric, values in headlines.items()
    }


def table(designs: Sequence[Design], sets: int, resamples: int) -> Iterator[str]:
    """The lines of the table in Markdown, as soon as they are computed."""
    yield f"{sets} sets a design, {resamples} resamples a set; standard error of a coverage of 0.95: {_error(sets):.3f}."
    yield ""
    yield "| design | metric | before | coverage | width | null p < 0.05 | Holm, three null pairs |"
    yield "|---|---|---|---|---|---|---|"
    for design in designs:
        for metric, tally in tallied(design, sets, resamples).items():
            yield f"| {design.name} | {NAMES[metric]} | {' | '.join(tally.cells())} |"


def _error(sets: int) -> float:
    return float(np.sqrt(CONFIDENCE * (1 - CONFIDENCE) / sets))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=1000, help="simulated sets of each design")
    parser.add_argument("--resamples", type=int, default=500, help="resamples of each set; sgcl evaluate takes 2000")
    parser.add_argument("--only", default="", help="designs with this text in their names")
    arguments = parser.parse_args()
    for line in table([one for one in DESIGNS if arguments.only in one.name], arguments.sets, arguments.resamples):
        print(line, flush=True)


if __name__ == "__main__":
    main()
