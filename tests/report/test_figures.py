from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sgcl_cli.report import figures
from sgcl_cli.report.figures import Curve

CURVE = Curve("fold 1", np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.8, 1.0]), 0.65)


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.mark.parametrize("folds", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_roc_is_drawn_and_repeatable(folds, count):
    png = figures.roc("Model", [CURVE] * count, folds=folds)
    picture = opened(png)
    assert min(picture.shape[:2]) > 400
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10
    assert png == figures.roc("Model", [CURVE] * count, folds=folds)


@pytest.mark.parametrize("classes", [2, 5, 9, 25])
def test_confusion_is_drawn(classes):
    counts = np.eye(classes, dtype=np.int64) * 7
    picture = opened(figures.confusion("Model", counts, [f"class {number}" for number in range(classes)]))
    assert min(picture.shape[:2]) > 400


def test_a_row_without_truth_divides_by_nothing():
    figures.confusion("Model", np.array([[0, 0], [1, 2]]), ["a", "b"])


@pytest.mark.parametrize("name", ["$\\frac{", "_hidden", "肿瘤", "[/red]<script>", "x" * 400])
def test_any_name_can_be_drawn(name):
    figures.confusion(name, np.array([[3, 1], [0, 2]]), [name, "b"])
    figures.roc("Model", [Curve(name, CURVE.false_rate, CURVE.true_rate, 0.5), CURVE], folds=False)
