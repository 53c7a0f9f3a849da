"""Fitted models on the disk: what is written is read, and damage is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from sgcl_cli.artefacts import models
from sgcl_cli.artefacts.models import Fitted, Kept
from sgcl_cli.errors import ArtefactError


def written(result: Path) -> dict:
    folds = {
        "first": [Fitted("knn", {"reference_rows": np.array([2, 0]), "labels": np.array([1, 0])}, {"k": 1})],
        "second": [
            Fitted("constant", {"value": np.array([0.5])}),
            Fitted("constant", {"value": np.array([0.75])}),
        ],
    }
    kept = Kept("A model", "mean", folds, np.array([[0.0, 1], [2, 3], [4, 5]]))
    assert models.write(result / "models", {"task": "binary"}, {"m": kept}) == [
        "models/m.safetensors",
        "models/card.json",
    ]
    entry = {fold: [{"kind": one.kind, "settings": dict(one.settings)} for one in fits] for fold, fits in folds.items()}
    return {"models": {"m": {"name": "A model", "view": "mean", "folds": entry}}}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    found = models.read(tmp_path, written(tmp_path), "m")
    assert (found.name, found.view, list(found.folds)) == ("A model", "mean", ["first", "second"])
    (nearest,) = found.folds["first"]
    assert nearest.kind == "knn" and nearest.settings == {"k": 1}
    assert nearest.arrays["reference"].tolist() == [[4, 5], [0, 1]]  # rows in place of their numbers
    assert "reference_rows" not in nearest.arrays
    assert [one.arrays["value"].tolist() for one in found.folds["second"]] == [[0.5], [0.75]]


def test_the_file_names_arrays_by_fold_and_seed(tmp_path: Path) -> None:
    written(tmp_path)
    names = set(safetensors.numpy.load_file(tmp_path / "models" / "m.safetensors"))
    assert names == {"0/0/reference_rows", "0/0/labels", "1/0/value", "1/1/value", "reference"}


def test_more_numbers_than_rows() -> None:
    one = Fitted("knn", {"reference_rows": np.array([0, 0, 0])})
    with pytest.raises(ValueError, match="3 reference rows among 2"):
        one.with_reference(np.zeros((2, 4)))
    plain = Fitted("constant", {"value": np.ones(1)})
    assert plain.with_reference(np.zeros((2, 4))) is plain


@pytest.mark.parametrize(("array", "bad"), [(np.array([1.0, np.nan]), True), (np.array([1.0, 2.0]), False)])
def test_arrays_that_are_not_finite_are_refused(tmp_path: Path, array: np.ndarray, bad: bool) -> None:
    card = written(tmp_path)
    path = tmp_path / "models" / "m.safetensors"
    safetensors.numpy.save_file({**safetensors.numpy.load_file(path), "1/0/value": array}, path)
    if not bad:
        assert models.read(tmp_path, card, "m").folds["second"][0].arrays["value"].tolist() == [1.0, 2.0]
        return
    with pytest.raises(
        ArtefactError, match=r"m\.safetensors is damaged: '1/0/value' is not of finite numbers"
    ) as caught:
        models.read(tmp_path, card, "m")
    assert caught.value.hint == "evaluate again with --overwrite"


def test_reference_rows_out_of_range(tmp_path: Path) -> None:
    card = written(tmp_path)
    path = tmp_path / "models" / "m.safetensors"
    safetensors.numpy.save_file({**safetensors.numpy.load_file(path), "0/0/reference_rows": np.array([9])}, path)
    with pytest.raises(ArtefactError, match=r"m\.safetensors has an unexpected content"):
        models.read(tmp_path, card, "m")


def test_a_cut_or_absent_file(tmp_path: Path) -> None:
    card = written(tmp_path)
    path = tmp_path / "models" / "m.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ArtefactError, match=r"m\.safetensors is damaged"):
        models.read(tmp_path, card, "m")
    path.unlink()
    with pytest.raises(ArtefactError, match="no such file"):
        models.read(tmp_path, card, "m")


def test_results_without_a_card(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="holds no finished evaluation"):
        models.read_card(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ArtefactError, match="has no fitted models") as caught:
        models.read_card(tmp_path)
    assert caught.value.hint.startswith("evaluate again")
