from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.artefacts.models import Kept
from sgcl_cli.errors import ArtefactError
from sgcl_cli.probe import fitted
from sgcl_cli.stages.predict.applied import Applied, Rows, apply

FILES = (
    FeatureFile(Path("a.h5"), "a", np.array([[0.0, 2.0], [4.0, 6.0]], np.float32)),
    FeatureFile(Path("b.h5"), "b", np.array([[1.0, 1.0]], np.float32)),
)
CPU = torch.device("cpu")


def test_rows_are_slides_or_all_their_patches() -> None:
    slides, patches = Rows.of(FILES, "slide"), Rows.of(FILES, "patch")
    assert (len(slides), slides.file_of.tolist(), slides.row) == (2, [0, 1], None)
    assert patches.row is not None
    assert (len(patches), patches.file_of.tolist(), patches.row.tolist()) == (3, [0, 0, 1], [0, 1, 0])


def test_views_are_patches_means_and_counts() -> None:
    rows = Rows.of(FILES, "slide")
    assert rows.view("mean").tolist() == [[2.0, 4.0], [1.0, 1.0]]
    assert rows.view("patch").tolist() == [[0.0, 2.0], [4.0, 6.0], [1.0, 1.0]]
    assert rows.view("count").tolist() == [[pytest.approx(np.log(3))], [pytest.approx(np.log(2))]]


def test_only_folds_that_count_enter_mean_and_spread() -> None:
    folds = {"1": np.array([[1.0], [1.0]]), "2": np.array([[3.0], [9.0]])}
    applied = Applied("Linear", folds, np.array([[True, True], [True, False]]), None)
    assert applied.mean.tolist() == [[2.0], [1.0]]
    assert applied.spread[0, 0] == pytest.approx(np.sqrt(2)) and np.isnan(applied.spread[1, 0])


def kept(*values: float) -> Kept:
    """A model of one fold and a seed for each value, which it always predicts."""
    return Kept("Constant", "mean", {"1": [fitted.constant(np.array([value])) for value in values]}, None)


def test_seeds_are_averaged_within_a_fold() -> None:
    applied = apply(kept(1.0, 2.0, 6.0), Rows.of(FILES, "slide"), np.ones((1, 2), np.bool_), CPU, 1)
    assert applied.folds["1"].tolist() == [[3.0], [3.0]] and applied.attention is None and applied.name == "Constant"


@pytest.mark.parametrize(("value", "outputs"), [(float("nan"), 1), (1.0, 2)])
def test_a_model_that_is_not_what_it_should_be_is_refused(value: float, outputs: int) -> None:
    with pytest.raises(ArtefactError, match="the model Constant, fold 1 cannot be applied: ") as caught:
        apply(kept(value), Rows.of(FILES, "slide"), np.ones((1, 2), np.bool_), CPU, outputs)
    assert caught.value.hint == "evaluate again with --overwrite"
