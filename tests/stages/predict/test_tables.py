from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.stages.predict.applied import Applied, Rows
from sgcl_cli.stages.predict.tables import columns, each, ensemble, matrix, places, spreads, summary

CLASSES: dict[str, Any] = {"classes": ["normal", "tumour"], "task": "binary"}
REGRESSION: dict[str, Any] = {"classes": [], "task": "regression"}
SURVIVAL: dict[str, Any] = {"classes": [], "task": "survival"}
FILES = tuple(
    FeatureFile(Path(f"{name}.h5"), name, np.zeros((2, 3), np.float32), coords=np.array([[0, 0], [512, 0]]))
    for name in ("a", "b")
)
SLIDES, PATCHES = Rows.of(FILES, "slide"), Rows.of(FILES, "patch")


def applied(first: list[list[float]], second: list[list[float]], used: list[list[bool]]) -> dict[str, Applied]:
    return {"linear": Applied("Linear", {"1": np.array(first), "2": np.array(second)}, np.array(used), None)}


BINARY = applied([[0.8, 0.2], [0.4, 0.6]], [[0.6, 0.4], [0.1, 0.9]], [[True, True], [True, False]])


def test_columns_follow_the_task() -> None:
    assert columns(CLASSES) == ["predicted", "p_normal", "p_tumour"] and spreads(CLASSES) == ["sd_normal", "sd_tumour"]
    assert columns(REGRESSION) == ["predicted"] and spreads(REGRESSION) == ["sd_predicted"]
    assert columns(SURVIVAL) == ["risk"] and spreads(SURVIVAL) == ["sd_risk"]
    assert places(SLIDES) == ["slide_id"] and places(PATCHES) == ["slide_id", "row", "x", "y"]


def test_the_ensemble_is_the_mean_of_the_folds_that_count() -> None:
    first, second = ensemble(CLASSES, SLIDES, BINARY)
    assert first["slide_id"] == "a" and first["model"] == "linear" and first["folds"] == 2
    assert (first["predicted"], first["p_normal"], first["p_tumour"]) == ("normal", "0.7", "0.3")
    assert float(first["sd_normal"]) == np.round(np.std([0.8, 0.6], ddof=1), 8)
    assert (second["predicted"], second["p_tumour"], second["folds"]) == ("tumour", "0.6", 1)
    assert "sd_tumour" not in second


def test_each_fold_says_whether_it_was_fitted_on_the_slide() -> None:
    rows = [*each(CLASSES, SLIDES, np.array([[False, False], [False, True]]), BINARY)]
    assert [(row["fold"], row["slide_id"], row["fitted_on"], row["p_tumour"]) for row in rows] == [
        ("1", "a", "no", "0.2"),
        ("1", "b", "no", "0.6"),
        ("2", "a", "no", "0.4"),
        ("2", "b", "yes", "0.9"),
    ]


def test_patches_have_their_places() -> None:
    values = [[0.25]] * 4
    rows = [*ensemble(REGRESSION, PATCHES, applied(values, values, [[True] * 4] * 2))]
    assert [(row["slide_id"], row["row"], row["x"], row["y"]) for row in rows] == [
        ("a", 0, 0, 0), ("a", 1, 512, 0), ("b", 0, 0, 0), ("b", 1, 512, 0)
    ]  # fmt: skip
    assert rows[0]["predicted"] == "0.25" and rows[0]["sd_predicted"] == "0"


def test_the_summary_counts_classes_or_gives_the_range() -> None:
    assert summary(CLASSES, BINARY) == {"linear": {"normal": 1, "tumour": 1}}
    values = applied([[1.0], [5.0]], [[3.0], [5.0]], [[True, True]] * 2)
    assert summary(SURVIVAL, values) == {"linear": {"lowest": 2.0, "median": 3.5, "highest": 5.0}}


def test_the_closing_table_has_models_by_classes_or_by_what_they_predict() -> None:
    models = {"knn": "kNN", "linear": "Linear"}
    counts = {"knn": {"normal": 3, "tumour": 1200}, "linear": {"normal": 4, "tumour": 1199}}
    found = matrix({"level": "patch", "models": models, "predicted": counts})
    assert (found.columns, found.notes) == (["normal", "tumour"], ["patches by predicted class"])
    assert found.rows == [("kNN", ["3", "1,200"]), ("Linear", ["4", "1,199"])]
    ranges = {"knn": {"lowest": -0.5, "median": 0.25, "highest": 1234.56}}
    found = matrix({"level": "slide", "models": models, "predicted": ranges})
    assert (found.rows, found.notes) == ([("kNN", ["-0.5", "0.25", "1235"])], [])
