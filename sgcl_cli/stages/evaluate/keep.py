"""models/: the fitted models of an evaluation, stored for ``sgcl predict`` with a card that describes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import models as kept_models
from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.artefacts.models import Kept
from sgcl_cli.probe.data.cohort import Cohort
from sgcl_cli.probe.data.splits import Fold, Plan

REFIT = "all"


def refit_fold(plan: Plan) -> Fold:
    """A division for fitting on all rows: the test rows of the first fold become validation rows, which choose settings.

    Its test part is a single row, because a fit needs one; its prediction is not used.
    """
    first = plan.folds[0]
    rows = np.unique(np.concatenate([np.concatenate([fold.fitted, fold.test]) for fold in plan.folds]))
    return Fold(REFIT, np.setdiff1d(rows, first.test), first.test, first.test[:1])


def keep(
    out: Path, result: Mapping[str, Any], cohort: Cohort, folds: Sequence[Fold], models: Mapping[str, Kept]
) -> list[str]:
    """Write models/.

    :param result: the content of metrics.json.
    :param folds: those in which ``models`` were fitted.
    :returns: the names of the files, relative to ``out``.
    """
    card = {
        "result": result["id"],
        **{
            name: result[name]
            for name in ("level", "task", "target", "classes", "confidence", "attention_model", "patients_known")
        },
        "features": made_by(cohort.files[0]),
        "folds": {fold.name: _fitted_on(cohort, fold.fitted) for fold in folds},
        "scores": {
            key: {name: model[name] for name in ("name", "metrics", "thresholds") if name in model}
            for key, model in result["models"].items()
            if key in models
        },
    }
    return kept_models.write(out / kept_models.FOLDER, card, models)


def made_by(file: FeatureFile) -> dict[str, Any]:
    """The properties in which features must agree with those that a model was fitted on; None where a file lacks one."""
    attributes, geometry = file.attributes or {}, file.geometry or {}
    mpp = geometry.get("mpp_actual", geometry.get("mpp_target"))
    return {
        "dim": int(file.features.shape[1]),
        **{name: _text(attributes.get(name)) for name in ("encoder", "encoder_sha256", "encoder_feed")},
        "mpp": None if mpp is None else float(mpp),
    }


def identity_of(file: FeatureFile) -> str:
    """The identity of the slide if the features record it, else the id of the features."""
    return str((file.attributes or {}).get("source_identity") or file.id)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _fitted_on(cohort: Cohort, rows: NDArray[np.int64]) -> dict[str, list[str]]:
    names = set(cohort.slide_id[rows].tolist())
    slides = dict(zip(dict.fromkeys(cohort.slide_id.tolist()), cohort.files, strict=True))
    return {
        "slides": sorted(names),
        "identities": sorted(identity_of(slides[name]) for name in names),
        "patients": sorted(set(cohort.patient_id[rows].tolist())),
    }
