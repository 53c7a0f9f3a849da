"""Baselines as encoders, maps of features, queries."""

from __future__ import annotations

import base64
import csv
import io
import re
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sgcl_cli.artefacts.features import FeatureWriter, open_features
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import EmbedConfig
from sgcl_cli.engine.loader import StoredPatches
from sgcl_cli.errors import ConfigError
from sgcl_cli.report.maps import paint, shade
from sgcl_cli.stages.embed import embed, maps
from sgcl_cli.stages.embed import query as feature_query
from sgcl_cli.stages.embed.maps import fit
from sgcl_cli.stages.embed.sample import Sample

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
    with pytest.raises(ConfigError, match="random:resnet19 is not an architecture"):
        embed(replace(config, encoder="random:resnet19"))


def test_components_are_principal_and_scored_in_standard_deviations() -> None:
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    rows = (rng.normal(size=(500, 4)) * [9, 4, 2, 0.1]) @ basis[:4] + 5
    found = fit(rows)
    np.testing.assert_allclose(np.abs(found.axes @ basis[:3].T), np.eye(3), atol=0.06)
    assert found.shares[0] > found.shares[1] > found.shares[2] and found.shares.sum() > 0.99
    scores = found.scores(rows)
    np.testing.assert_allclose(scores.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(scores.std(axis=0), 1, rtol=1e-9)
    two = fit(rows[:, :2]).scores(rows[:, :2])
    assert two.shape == (500, 3) and (two[:, 2] == 0).all()


def panels_of(page: str) -> list[np.ndarray]:
    """The pictures of a page, uint8 (H, W, 3)."""
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB")) for one in found]


def test_maps_show_each_patch_at_its_cell(config: EmbedConfig) -> None:
    embed(replace(config, map=True))
    out = Path(config.out)
    files = open_features(out).files
    components = fit(np.concatenate([file.features for file in files]))
    page = (out / "maps.html").read_text()
    panels = panels_of(page)
    assert len(panels) == 3 * len(files)
    for number, file in enumerate(files):
        columns, rows = file.grid.max(axis=0) + 1
        scores = components.scores(file.features)
        for component, picture in enumerate(panels[3 * number : 3 * number + 3]):
            cell = picture.shape[1] // columns
            assert picture.shape == (cell * rows, cell * columns, 3)
            colours = shade(scores[:, component])
            for (column, row), colour in zip(file.grid.tolist(), colours, strict=True):
                assert (picture[cell * row + cell // 2, cell * column + cell // 2] == colour).all()
        with Image.open(out / "maps" / f"{file.slide_id}.png") as opened:
            assert opened.width >= 640
        assert f"component 1 ({components.shares[0]:.0%}), {file.slide_id}" in page.replace("&#39;", "'")
    assert "No picture of the tissue was found: a, b." in page
    assert "default-src 'none'" in page and "<script" not in page and "http://" not in page


def test_the_tissue_stands_beside_its_maps_in_the_same_frame(tmp_path: Path) -> None:
    """Red where the second column of patches lies, of a slide with a margin of one patch around them."""
    sources = write_features(tmp_path, 2, rows=64, size=34 * 32)
    picture = np.full((34, 34, 3), 255, np.uint8)
    picture[:, 1] = (200, 0, 0)

    def show(slide_id: str) -> np.ndarray | None:
        return picture if slide_id == "s000" else None

    assert maps.draw(tmp_path, sources, 0, "", [], picture=show) == ["s000", "s001"]
    page = (tmp_path / "maps.html").read_text()
    tissue, *components = panels_of(page)
    assert len(components) == 6 and tissue.shape == components[0].shape
    cell = tissue.shape[1] // 32
    middles = tissue[cell // 2, cell // 2 :: cell].astype(int)
    assert (np.abs(middles[1] - (200, 0, 0)) < 30).all() and (middles[[0, *range(3, 32)]] > 240).all()
    assert "No picture of the tissue was found: s001." in page


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
        embed(replace(config, out=f"{out}-2", query="a:9000,0"))
    written = {path.name for path in Path(f"{out}-2").iterdir()}
    assert {"a.h5", "b.h5", "run.json", "slides.csv", "failures.csv"} <= written
    with pytest.raises(ConfigError, match="--query z:1,1: there is no such slide"):
        embed(replace(config, query="z:1,1"))


def test_a_sample_is_uniform_over_all_files() -> None:
    """Each of 3 + 60 + 7 rows is in a sample of 14 once in five; none is in it twice."""
    files = np.split(np.arange(70.0)[:, None], [3, 63])
    counts = np.zeros(70)
    for seed in range(400):
        sample = Sample(14, seed)
        for file in files:
            sample.add(file)
        rows = sample.rows[:, 0].astype(int)
        assert len({*rows}) == 14
        counts[rows] += 1
    assert abs(counts - 80).max() < 5 * np.sqrt(400 * 0.2 * 0.8) and counts.sum() == 400 * 14
    small = Sample(100, 0)
    for file in files:
        small.add(file)
    assert sorted(small.rows[:, 0]) == list(range(70))


def write_features(folder: Path, slides: int, rows: int = 256, dim: int = 96, size: int = 0) -> dict[str, Path]:
    """Files of features on a lattice of 32 columns; one row of the last slide is that of the first slide's corner."""
    sources = {}
    for number in range(slides):
        values = np.random.default_rng(number).normal(size=(rows, dim)).astype(np.float32)
        if number == slides - 1:
            values[5] = 2 * np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32)[0]
        grid = np.stack([np.arange(rows) % 32, np.arange(rows) // 32], axis=1)
        attributes = {
            "slide_id": f"s{number:03}",
            "encoder": "e",
            "encoder_sha256": "0",
            "patches_id": "p",
            "config": "{}",
        }
        path = folder / f"s{number:03}.h5"
        with FeatureWriter(path, str(number), dim, "float32") as writer:
            writer.append(values)
            whole = {"level0_width": size, "level0_height": size} if size else {}
            writer.finish({"coords": grid * 32, "grid": grid}, attributes, {"patch_size_level0": 32, **whole})
        sources[f"s{number:03}"] = path
    return sources


@pytest.mark.parametrize("module", [maps, feature_query])
def test_memory_and_openings_do_not_grow_with_the_slides(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "_SAMPLE", 150)
    monkeypatch.setattr(maps, "_BLOCK", 64)
    opened: Counter[str] = Counter()
    true = module.open_file
    monkeypatch.setattr(module, "open_file", lambda path, **given: (opened.update([path.stem]), true(path, **given))[1])
    sources = write_features(tmp_path, 12)
    peaks = []
    for count in (3, 3, 12):
        some = dict([*sources.items()][-count:])
        opened.clear()
        tracemalloc.start()
        if module is maps:
            assert len(maps.draw(tmp_path, some, 0, "", [])) == count
        else:
            assert len(feature_query.find(some, [*some][-1], 0, 0, 7)) == 8
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert opened.keys() == some.keys() and max(opened.values()) <= (2 if module is maps else 1)
    assert peaks[2] < 1.5 * peaks[1], peaks


def test_the_best_of_many_files_are_found(tmp_path: Path) -> None:
    hits = feature_query.find(write_features(tmp_path, 12), "s000", 3, 3, 4)
    assert [(hit.slide_id, hit.corner) for hit in hits[:2]] == [("s000", (0, 0)), ("s011", (160, 0))]
    assert len(hits) == 5 and hits[1].similarity == pytest.approx(1, abs=1e-6)
    order = [hit.similarity for hit in hits[1:]]
    assert order[1] < 0.7 and order == sorted(order, reverse=True)


def test_slides_without_patches_are_named_on_the_page(config: EmbedConfig, make_patches: Make) -> None:
    make_patches(slides={"void & <empty>": (0, 0)})
    embed(replace(config, map=True))
    page = (Path(config.out) / "maps.html").read_text()
    assert "there are no patches with coordinates: void &amp; &lt;empty&gt;." in page and "2 slides</li>" in page


@pytest.mark.parametrize("extent", [3, 700, 5000])
def test_pictures_are_bounded_and_their_squares_alike(extent: int) -> None:
    corners = np.stack([np.arange(extent), np.zeros(extent)], axis=1).astype(np.float64)
    colours = np.stack([np.arange(extent) % 251, np.zeros(extent), np.zeros(extent)], axis=1).astype(np.uint8)
    with Image.open(io.BytesIO(paint(corners, colours, 800))) as opened:
        reds = np.asarray(opened)[0, :, 0].astype(int)
    assert len(reds) == {3: 48, 700: 700, 5000: 800}[extent]
    if extent == 3:
        assert reds.tolist() == [0] * 16 + [1] * 16 + [2] * 16


@pytest.mark.parametrize("text", ["a", "a:1", ":1,2", "a:x,y"])
def test_a_query_has_a_slide_and_a_place(config: EmbedConfig, text: str) -> None:
    with pytest.raises(ConfigError, match="--query is"):
        replace(config, query=text)
