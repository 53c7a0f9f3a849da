from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from sgcl_cli.report import figures
from sgcl_cli.report.drawing import DrawnFigure
from sgcl_cli.report.figures import Bins, Curve, PrecisionRecall

CURVE = Curve("fold 1", np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.8, 1.0]), 0.65)


def opened(drawn: DrawnFigure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(drawn.png)).convert("RGB"))


def said(drawn: DrawnFigure) -> str:
    """The words of a figure: matplotlib keeps each text as a comment beside its outlines."""
    ElementTree.fromstring(drawn.svg)
    return " ".join(re.findall(r"<!-- (.*?) -->", drawn.svg.decode()))


@pytest.mark.parametrize("folds", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_roc_is_drawn_and_repeatable(folds, count):
    drawn = figures.roc("Model", [CURVE] * count, folds=folds)
    picture = opened(drawn)
    assert min(picture.shape[:2]) > 400
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10
    assert drawn == figures.roc("Model", [CURVE] * count, folds=folds)


@pytest.mark.parametrize("classes", [2, 5, 9, 25])
def test_confusion_is_drawn(classes):
    counts = np.eye(classes, dtype=np.int64) * 7
    picture = opened(figures.confusion("Model", counts, [f"class {number}" for number in range(classes)]))
    assert min(picture.shape[:2]) > 400


def test_a_row_without_truth_divides_by_nothing():
    figures.confusion("Model", np.array([[0, 0], [1, 2]]), ["a", "b"])


@pytest.mark.parametrize("name", ["$\\frac{", "_hidden", "肿瘤", "[/red]<script>", "x" * 400])
def test_any_name_can_be_drawn(name):
    ElementTree.fromstring(figures.confusion(name, np.array([[3, 1], [0, 2]]), [name, "b"]).svg)
    figures.roc("Model", [Curve(name, CURVE.false_rate, CURVE.true_rate, 0.5), CURVE], folds=False)


def test_precision_and_recall_say_the_class_and_its_average_precision():
    recall, precision = np.array([1.0, 0.5, 0.0]), np.array([0.4, 0.6, 1.0])
    drawn = figures.precision_recall("Model", [PrecisionRecall("tumour", recall, precision, 0.6789, 0.4)])
    assert "0.679" in said(drawn) and "tumour" in said(drawn) and "precision" in said(drawn)
    other = figures.precision_recall("Model", [PrecisionRecall("tumour", recall, precision, 0.6789, 0.9)])
    assert other.png != drawn.png


def test_reliability_leaves_empty_bins_out():
    nan = float("nan")
    bins = Bins(np.linspace(0, 1, 4), np.array([3, 0, 5]), np.array([0.1, nan, 0.9]), np.array([0.2, nan, 0.7]))
    drawn = figures.reliability("Model", bins)
    assert "predicted probability" in said(drawn)
    everything = Bins(bins.edges, np.array([3, 1, 5]), np.array([0.1, 0.5, 0.9]), np.array([0.2, 0.5, 0.7]))
    assert figures.reliability("Model", everything).svg != drawn.svg
