from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.config import PredictConfig
from sgcl_cli.stages.predict.applied import Applied, Rows
from sgcl_cli.stages.predict.page import render

CARD: dict[str, Any] = {
    "level": "slide",
    "task": "binary",
    "target": "grade",
    "classes": ["low", "high"],
    "confidence": 0.95,
    "features": {"encoder": "tiny"},
    "scores": {"linear": {"name": "Linear", "metrics": {}}},
}


def page(count: int, level: str = "slide", warnings: tuple[str, ...] = (), **card: Any) -> str:
    files = tuple(
        FeatureFile(Path("x.h5"), f"slide-{number:03d}", np.zeros((2, 3), np.float32)) for number in range(count)
    )
    rows = Rows.of(files, level)
    values = np.tile([0.123456, 0.876544], (len(rows), 1))
    applied = {"linear": Applied("Linear", {"1": values, "2": values}, np.ones((2, len(rows)), np.bool_), None)}
    config = PredictConfig(out="out", result="m", features="f")
    return render(config, {**CARD, **card}, rows, applied, [], warnings=warnings, ids={"Models": "models-1"})


def page_of_scores() -> str:
    score = {"value": 0.9, "low": None, "high": None, "reason": "", "no_interval": "3 patients, fewer than 10"}
    return page(2, scores={"linear": {"name": "Linear", "metrics": {"auroc": score}}})


def test_scores_are_those_of_the_evaluation_and_no_patients_are_announced() -> None:
    html = page_of_scores()
    assert "<h2>Scores of these models in their evaluation</h2>" in html and "<h2>Results</h2>" not in html
    assert "No intervals: 3 patients, fewer than 10.</p>" in html


def test_slides_are_listed_with_their_class() -> None:
    html = page(2)
    assert "Predictions of grade" in html and "slide level" in html and "2 slides" in html and "2 folds" in html
    assert all(text in html for text in ("slide-000", "slide-001", "high", "0.877", "encoder tiny", "models-1"))


def test_a_long_list_is_cut_and_says_where_the_rest_is() -> None:
    html = page(201)
    assert "slide-199" in html and "slide-200" not in html
    assert "The first 200 of 201; predictions.csv has all." in html


def test_patches_are_counted_not_listed() -> None:
    html = page(3, level="patch")
    assert "6 patches" in html and "slide-000" not in html


def test_warnings_and_an_unknown_encoder_are_said() -> None:
    html = page(1, warnings=("one slide was fitted on",), features={"encoder": None})
    assert "one slide was fitted on" in html and "encoder not recorded" in html
