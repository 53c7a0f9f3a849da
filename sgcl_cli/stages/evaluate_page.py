"""What the report of ``sgcl evaluate`` is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts.results import versions
from sgcl_cli.probe import metrics
from sgcl_cli.probe.cohort import Cohort
from sgcl_cli.probe.splits import Plan
from sgcl_cli.report import evaluation, figures
from sgcl_cli.stages.evaluate_fit import Floats, Model, reported_rows


def curves_of(cohort: Cohort, plan: Plan, model: Model) -> list[figures.Curve]:
    """Folds of a binary task, else each class against the rest over all reported rows."""
    if cohort.binary:
        return _fold_curves(cohort, plan, model)
    reported, _ = reported_rows(cohort, plan)
    return _class_curves(cohort, cohort.label[reported], model.probability[reported])


def _fold_curves(cohort: Cohort, plan: Plan, model: Model) -> list[figures.Curve]:
    curves = []
    for fold in plan.folds:
        truth = cohort.label[fold.test]
        if len(np.unique(truth)) == 2:
            rates = metrics.roc(truth, model.probability[fold.test], 1)
            name = f"fold {fold.name}" if len(plan.folds) > 1 else "test"
            curves.append(figures.Curve(name, *rates, model.headlines["auroc"].folds[fold.name].value))
    return curves


def _class_curves(cohort: Cohort, truth: NDArray[np.int64], probability: Floats) -> list[figures.Curve]:
    curves = []
    for number, name in enumerate(cohort.classes):
        positive = (truth == number).astype(np.int64)
        if 0 < positive.sum() < len(positive):
            two = np.stack([1 - probability[:, number], probability[:, number]], axis=1)
            area = metrics.score("auroc", positive, two, ("rest", name)).value
            curves.append(figures.Curve(name, *metrics.roc(truth, probability, number), area))
    return curves


def parts_of(cohort: Cohort, plan: Plan) -> list[evaluation.Part]:
    """Patients and rows per class of each part of each fold."""
    return [
        evaluation.Part(
            fold.name,
            name,
            len(np.unique(cohort.patient_id[members])),
            np.bincount(cohort.label[members], minlength=len(cohort.classes)).tolist(),
        )
        for fold in plan.folds
        for name, members in (("training", fold.train), ("validation", fold.validation), ("test", fold.test))
    ]


def slide_results(cohort: Cohort, plan: Plan, models: Sequence[Model]) -> list[evaluation.SlideResult]:
    """Each reported slide with the probability of its true class; empty at patch level."""
    if cohort.level != "slide":
        return []
    reported, fold_of = reported_rows(cohort, plan)
    return [
        evaluation.SlideResult(
            str(cohort.slide_id[index]),
            cohort.classes[cohort.label[index]],
            fold,
            {model.key: float(model.probability[index, cohort.label[index]]) for model in models},
        )
        for index, fold in zip(reported.tolist(), fold_of.tolist(), strict=True)
    ]


def provenance(identity: str, ids: Mapping[str, str]) -> list[tuple[str, str]]:
    """Ids and versions, as (name, value)."""
    installed = versions()
    names = [name for name in ("sgcl", "python", "torch", "scikit-learn") if name in installed]
    return [
        ("Result", identity),
        *((name.capitalize(), value) for name, value in ids.items()),
        ("Versions", ", ".join(f"{name} {installed[name]}" for name in names)),
    ]
