"""Features that are unlike those that the models were fitted on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.artefacts.models import Fitted, Kept
from sgcl_cli.stages.predict import predict
from sgcl_cli.stages.predict.applied import Rows
from sgcl_cli.stages.predict.shift import warnings_of
from tests.stages.predict.made import DIM, applied, write_slide

RNG = np.random.default_rng(0)
MEAN, SCALE = np.array([10.0, -3.0, 0.5]), np.array([2.0, 0.1, 4.0])
FEATURES = [(MEAN + SCALE * RNG.normal(size=(6, 3))).astype(np.float32) for _ in range(4)]


def rows_of(features: list[np.ndarray], level: str) -> Rows:
    files = tuple(FeatureFile(Path(f"{i}.h5"), str(i), one) for i, one in enumerate(features))
    return Rows.of(files, level)


def linear(view: str) -> dict[str, Kept]:
    counts = Fitted("logistic", {"mean": np.array([99.0]), "scale": np.array([1e-3])})
    knn = Kept("kNN", view, {"1": [Fitted("knn", {})]})
    fitted = Fitted("logistic", {"mean": MEAN, "scale": SCALE})
    return {"patch-count": Kept("Count", "count", {"1": [counts]}), "knn": knn, "l": Kept("L", view, {"1": [fitted]})}


@pytest.mark.parametrize(("level", "view"), [("slide", "mean"), ("patch", "patch")])
def test_features_like_those_fitted_on_give_no_warning_and_scaled_ones_do(level: str, view: str) -> None:
    assert warnings_of(rows_of(FEATURES, level), linear(view)) == []
    distance = np.median(np.abs((20 * rows_of(FEATURES, level).view(view) - MEAN) / SCALE))
    (said,) = warnings_of(rows_of([20 * one for one in FEATURES], level), linear(view))
    assert f"are typically {distance:.3g} standard deviations from those" in said


def test_equal_features_are_warned_of() -> None:
    equal = [np.tile(MEAN, (4, 1)), np.tile(MEAN, (2, 1))]
    assert warnings_of(rows_of(equal, "slide"), linear("mean"))[0].startswith("the features of all patches are equal")
    equal[1][1, 2] += 1
    assert warnings_of(rows_of(equal, "slide"), {}) == []


def test_the_command_warns(classes: Path, tmp_path: Path) -> None:
    for number in (40, 41):
        write_slide(tmp_path / "new", f"s{number}", 1000 * np.random.default_rng(number).normal(size=(3, DIM)))
    outcome = predict(applied(classes, tmp_path / "out", tmp_path / "new"))
    assert any("standard deviations from those that the models were fitted on" in text for text in outcome.warnings)
    assert "standard deviations from those" in (tmp_path / "out/predictions.html").read_text()


def test_the_command_compares_with_a_linear_model_that_is_not_applied(result: Path, tmp_path: Path) -> None:
    for number in (40, 41):
        write_slide(tmp_path / "new", f"s{number}", 1000 * np.random.default_rng(number).normal(size=(3, DIM)))
    outcome = predict(applied(result, tmp_path / "out", tmp_path / "new", models="abmil"))
    assert any("standard deviations from those that the models were fitted on" in text for text in outcome.warnings)
