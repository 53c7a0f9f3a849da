from __future__ import annotations

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from sgcl_cli.artefacts import slide_embeddings, store
from sgcl_cli.artefacts.slide_embeddings import SlideEmbeddings, is_current, paths, write
from sgcl_cli.errors import WriteError

VALUES = np.array([[0.1, -2.0], [3e-8, 4.25], [0.0, 1 / 3]], np.float32)


@pytest.fixture
def embeddings() -> SlideEmbeddings:
    slides = {
        "slide_id": ["=1+1", "b", "ü 3"],
        "n_patches": np.array([4, 1, 7]),
        "mpp": np.array([0.5, np.nan, 0.25]),
        "fitted_on": ["", "1;2", "2"],
    }
    dimensions = {"name": ["1/0/0", "1/0/1"], "unit": np.array([0, 1])}
    return SlideEmbeddings(VALUES, slides, dimensions, {"target": "a\0b\ud800", "folds": ["1"], "encoder_mpp": None})


def test_the_table_holds_what_a_float32_holds(tmp_path: Path, embeddings: SlideEmbeddings) -> None:
    write(tmp_path, "mean", "one", embeddings)
    with (tmp_path / "slides_mean.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["slide_id", "n_patches", "1/0/0", "1/0/1"]
    assert [row[:2] for row in rows] == [["'=1+1", "4"], ["b", "1"], ["ü 3", "7"]]
    assert np.array_equal(np.array([row[2:] for row in rows], np.float32), VALUES) and rows[0][2] == "0.1"


def test_the_record_says_what_the_vectors_are(tmp_path: Path, embeddings: SlideEmbeddings) -> None:
    write(tmp_path, "mean", "one", embeddings)
    record = json.loads((tmp_path / "slides_mean.json").read_text())
    assert (record["format"], record["id"], record["pooling"]) == ("sgcl.slide_embeddings/1", "one", "mean")
    assert record["folds"] == ["1"] and record["encoder_mpp"] is None


def test_the_groups_and_encodings_are_those_of_anndata(tmp_path: Path, embeddings: SlideEmbeddings) -> None:
    write(tmp_path, "mean", "one", embeddings)
    with h5py.File(tmp_path / "slides_mean.h5ad") as file:
        assert dict(file.attrs) == {"encoding-type": "anndata", "encoding-version": "0.1.0"}
        assert sorted(file) == ["X", "layers", "obs", "obsm", "obsp", "uns", "var", "varm", "varp"]
        assert file["X"].dtype == np.float32 and np.array_equal(file["X"], VALUES)
        obs = file["obs"]
        assert obs.attrs["_index"] == "slide_id" and list(obs.attrs["column-order"]) == [
            "n_patches",
            "mpp",
            "fitted_on",
        ]
        assert obs["slide_id"].asstr()[:].tolist() == ["=1+1", "b", "ü 3"]
        assert dict(obs["slide_id"].attrs) == {"encoding-type": "string-array", "encoding-version": "0.2.0"}
        assert file["uns/sgcl/target"].asstr()[()] == "a\\x00b\\ud800" and "encoder_mpp" not in file["uns/sgcl"]


def test_anndata_opens_the_file(tmp_path: Path, embeddings: SlideEmbeddings) -> None:
    anndata = pytest.importorskip("anndata")
    write(tmp_path, "mean", "one", embeddings)
    data = anndata.read_h5ad(tmp_path / "slides_mean.h5ad")
    assert data.obs_names.tolist() == ["=1+1", "b", "ü 3"] and data.var_names.tolist() == ["1/0/0", "1/0/1"]
    assert np.array_equal(data.X, VALUES) and data.obs["fitted_on"].tolist() == ["", "1;2", "2"]
    assert data.uns["sgcl"]["id"] == "one"


def test_files_are_current_only_as_they_were_written(tmp_path: Path, embeddings: SlideEmbeddings) -> None:
    assert not is_current(tmp_path, "mean", "one")
    write(tmp_path, "mean", "one", embeddings)
    assert is_current(tmp_path, "mean", "one") and not is_current(tmp_path, "mean", "two")
    data, table, record = paths(tmp_path, "mean")
    for path in (data, table):
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        assert not is_current(tmp_path, "mean", "one")
        path.unlink()
        assert not is_current(tmp_path, "mean", "one")
        path.write_bytes(whole)
    for content in ("", "[]", "{}", '{"id": "one"}', '{"id": "one", "bytes": [1' + "0" * 5000 + "]}", "[" * 10**5):
        record.write_text(content)
        assert not is_current(tmp_path, "mean", "one")


def test_a_full_disk_leaves_no_record(
    tmp_path: Path, embeddings: SlideEmbeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "mean", "one", embeddings)

    def full(path: Path, *_: object) -> None:
        raise WriteError(f"the disk is full while writing {path}", "free space")

    monkeypatch.setattr(store, "write_csv", full)
    with pytest.raises(WriteError, match=r"slides_mean\.csv"):
        slide_embeddings.write(tmp_path, "mean", "two", embeddings)
    assert not (tmp_path / "slides_mean.json").exists() and not [*tmp_path.glob(".*")]


@pytest.mark.parametrize("suffix", [".h5ad", ".csv", ".json"])
def test_a_folder_where_a_file_should_be(tmp_path: Path, embeddings: SlideEmbeddings, suffix: str) -> None:
    (tmp_path / f"slides_mean{suffix}").mkdir()
    assert not is_current(tmp_path, "mean", "one")
    with pytest.raises(WriteError, match=rf"cannot write .*slides_mean\{suffix}"):
        write(tmp_path, "mean", "one", embeddings)
