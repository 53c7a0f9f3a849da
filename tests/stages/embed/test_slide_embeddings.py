from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from sgcl_cli.artefacts.features import open_features
from sgcl_cli.config import EmbedConfig
from sgcl_cli.engine import encode
from sgcl_cli.errors import ArtefactError, ConfigError
from sgcl_cli.stages.embed.run import embed
from tests.stages.embed.pooled import SLIDES

Make = Callable[..., Path]


@pytest.fixture
def config(make_patches: Make, tmp_path: Path) -> EmbedConfig:
    patches, out = str(make_patches(slides=SLIDES)), str(tmp_path / "features")
    return EmbedConfig(patches=patches, encoder="mean-colour", out=out, threads=1, slide_embedding="mean")


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return [*csv.reader(file)]


def test_the_mean_is_that_of_the_stored_features(config: EmbedConfig) -> None:
    outcome = embed(config)
    header, *found = rows(Path(config.out) / "slides_mean.csv")
    assert header == ["slide_id", "n_patches", "0", "1", "2"]
    assert [row[:2] for row in found] == [["a", "16"], ["b", "15"], ["c", "1"]]
    for row, file in zip(found, open_features(config.out).files, strict=True):
        sums = [0.0] * 3
        for patch in file.features.tolist():
            sums = [total + number for total, number in zip(sums, patch, strict=True)]
        np.testing.assert_allclose([*map(float, row[2:])], [total / len(file) for total in sums], rtol=1e-7)
    assert dict(outcome.headline)["slide embeddings"].startswith("3 x 3, ")
    with h5py.File(Path(config.out) / "slides_mean.h5ad") as data:
        assert np.array_equal(data["X"], np.array([row[2:] for row in found], np.float32))
        assert data["obs/mpp"][:].tolist() == [0.5] * 3 and data["obs/n_patches"][:].tolist() == [16, 15, 1]
        assert data["uns/sgcl/encoder"].asstr()[()] == "mean-colour" and data["uns/sgcl/pooling"].asstr()[()] == "mean"


def test_no_slide_is_embedded_again(config: EmbedConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    embed(replace(config, slide_embedding=None))
    assert not [*Path(config.out).glob("slides_*")]
    monkeypatch.setattr(encode.FrozenEncoder, "begin", lambda *_: pytest.fail("embedded again"))
    embed(config)
    files = {path: path.stat().st_mtime_ns for path in Path(config.out).glob("slides_*")}
    assert len(files) == 3
    assert "there already" in dict(embed(config).headline)["slide embeddings"]
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_other_features_make_other_embeddings(config: EmbedConfig, make_patches: Make) -> None:
    embed(config)
    record = Path(config.out) / "slides_mean.json"
    before = json.loads(record.read_text())["id"]
    make_patches(slides={"d": (2, 2)})
    embed(config)
    assert json.loads(record.read_text())["id"] != before
    assert [row[0] for row in rows(record.with_suffix(".csv"))] == ["slide_id", "a", "b", "c", "d"]


def test_a_slide_without_patches_has_no_embedding(config: EmbedConfig, make_patches: Make) -> None:
    make_patches(slides={"void": (0, 0)})
    assert "1 slides have no patches and no slide embedding: void" in embed(config).warnings
    assert [row[0] for row in rows(Path(config.out) / "slides_mean.csv")][1:] == ["a", "b", "c"]


def test_no_slide_with_patches_can_be_read(config: EmbedConfig, make_patches: Make) -> None:
    folder = make_patches("damaged", slides={"a": (2, 2), "void": (0, 0)})
    with h5py.File(folder / "patches" / "a.h5", "r+") as file:
        file["jpeg"][:50] = 0
    outcome = embed(replace(config, patches=str(folder)))
    assert [failure.slide_id for failure in outcome.failures] == ["a"]
    assert dict(outcome.headline)["slide embeddings"] == "no slide has patches"
    assert not [*Path(config.out).glob("slides_*")]


def test_images_are_no_slides(config: EmbedConfig, tmp_path: Path) -> None:
    from PIL import Image

    for name in ("x", "y"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / name / "1.png")
    with pytest.raises(ConfigError, match="--slide-embedding is for slides, and .*images holds images"):
        embed(replace(config, patches=str(tmp_path / "images")))
    assert not Path(config.out).exists()


@pytest.mark.parametrize("text", ["", " ", "median", "../no", "a\0b", "x" * 5000])
def test_what_is_neither_mean_nor_a_result(config: EmbedConfig, text: str) -> None:
    with pytest.raises(ConfigError, match="--slide-embedding"):
        embed(replace(config, slide_embedding=text))
    assert not Path(config.out).exists()


def test_a_file_of_features_of_another_width(config: EmbedConfig) -> None:
    embed(replace(config, slide_embedding=None))
    with h5py.File(Path(config.out) / "b.h5", "r+") as file:
        del file["features"]
        file["features"] = np.zeros((15, 2), np.float16)
    with pytest.raises(ArtefactError, match=r"b\.h5 has features of 2 dimensions, the encoder 3"):
        embed(config)
    assert not [*Path(config.out).glob("slides_*")]
