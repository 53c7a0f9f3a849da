"""Baselines as encoders, maps of features, queries."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgcl_cli.artefacts.features import open_features
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import EmbedConfig
from sgcl_cli.engine.loader import StoredPatches
from sgcl_cli.errors import ConfigError
from sgcl_cli.stages.embed import embed
from sgcl_cli.stages.feature_maps import fit

Make = Callable[..., Path]


@pytest.fixture
def config(make_patches: Make, tmp_path: Path) -> EmbedConfig:
    out = str(tmp_path / "features")
    patches = str(make_patches())
    return EmbedConfig(patches=patches, encoder="mean-colour", out=out, dtype="float32", threads=1, device="cpu")


def test_mean_colour_is_that_of_the_crop(config: EmbedConfig) -> None:
    embed(config)
    patch = StoredPatches(PatchIndex.open(config.patches))(17)[2:30, 2:30].reshape(-1, 3) / 255
    file = open_features(config.out).by_slide()["b"]
    np.testing.assert_allclose(file.features[1], patch.mean(axis=0), atol=1e-6)
    assert file.attributes["encoder"] == "mean-colour" and len(file.attributes["encoder_sha256"]) == 64


def test_the_histogram_counts_pixels(config: EmbedConfig) -> None:
    embed(replace(config, encoder="colour-histogram"))
    patch = StoredPatches(PatchIndex.open(config.patches))(17)[2:30, 2:30].reshape(-1, 3)
    wanted, _ = np.histogramdd(patch, bins=8, range=[(0, 256)] * 3)
    file = open_features(config.out).by_slide()["b"]
    np.testing.assert_allclose(file.features[1], wanted.ravel() / len(patch), atol=1e-6)


def test_random_weights_follow_the_seed(config: EmbedConfig, tmp_path: Path) -> None:
    random = replace(config, encoder="random:resnet18")
    made = [embed(replace(random, seed=seed, out=str(tmp_path / f"{n}"))).data for n, seed in enumerate((3, 3, 4))]
    shas = [data["encoder_sha256"] for data in made]
    assert shas[0] == shas[1] != shas[2]
    with pytest.raises(ConfigError, match="made with another encoder"):
        embed(replace(random, seed=4, out=str(tmp_path / "0")))
    with pytest.raises(ConfigError, match="random:resnet19 is no architecture"):
        embed(replace(config, encoder="random:resnet19"))


def test_a_palette_is_the_principal_components() -> None:
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    rows = (rng.normal(size=(500, 4)) * [9, 4, 2, 0.1]) @ basis[:4] + 5
    palette = fit(rows)
    np.testing.assert_allclose(np.abs(palette.axes @ basis[:3].T), np.eye(3), atol=0.06)
    assert palette.shares[0] > palette.shares[1] > palette.shares[2] and palette.shares.sum() > 0.99
    colours = palette.colours(rows)
    order = np.argsort(rows @ palette.axes[0])
    assert (np.diff(colours[order, 0].astype(int)) >= 0).all() and np.ptp(colours, axis=0).tolist() == [255] * 3
    assert fit(rows[:, :2]).colours(rows[:, :2]).shape == (500, 3)


def test_maps_show_each_patch_at_its_cell(config: EmbedConfig) -> None:
    embed(replace(config, map=True))
    out = Path(config.out)
    files = open_features(out).files
    palette = fit(np.concatenate([file.features for file in files]))
    page = (out / "maps.html").read_text()
    for file in files:
        with Image.open(out / "maps" / f"{file.slide_id}.png") as opened:
            picture = np.asarray(opened)
        columns, rows = file.grid.max(axis=0) + 1
        assert picture.shape == (16 * rows, 16 * columns, 3)
        colours = palette.colours(file.features)
        for (column, row), colour in zip(file.grid.tolist(), colours, strict=True):
            assert np.abs(picture[16 * row + 8, 16 * column + 8].astype(int) - colour).max() <= 1
        assert f"Features of {file.slide_id} as colours" in page
    assert "default-src 'none'" in page and "<script" not in page and "http://" not in page


def test_a_query_finds_what_is_most_alike(config: EmbedConfig) -> None:
    embed(replace(config, query="a:70,33", query_top=5))
    out = Path(config.out)
    with (out / "query_a_64_32.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    files = open_features(out).files
    every = {(f.slide_id, *c): v for f in files for c, v in zip(f.coords.tolist(), f.features, strict=True)}
    query = every.pop(("a", 64, 32))
    cosine = {key: v @ query / np.linalg.norm(v) / np.linalg.norm(query) for key, v in every.items()}
    wanted = sorted(cosine.values(), reverse=True)[:5]
    np.testing.assert_allclose([float(row["similarity"]) for row in rows[1:]], wanted, rtol=1e-5)
    assert rows[0]["slide_id"] == "a" and {row["slide_id"] for row in rows} == {"a", "b"}
    with Image.open(out / "query_a_64_32.png") as picture:
        assert picture.width > 600
    with pytest.raises(ConfigError, match="a has no patch at 9000,0; the nearest begins at 96,0"):
        embed(replace(config, query="a:9000,0"))
    with pytest.raises(ConfigError, match="--query z:1,1: there is no such slide"):
        embed(replace(config, query="z:1,1"))


@pytest.mark.parametrize("text", ["a", "a:1", ":1,2", "a:x,y"])
def test_a_query_has_a_slide_and_a_place(config: EmbedConfig, text: str) -> None:
    with pytest.raises(ConfigError, match="--query is"):
        replace(config, query=text)
