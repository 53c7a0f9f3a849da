from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from synthetic.noise import Block, Points, ramp, smooth_field
from synthetic.nuclei import LYMPHOCYTE, SPINDLE, draw_bank, scatter, stamp
from synthetic.pyramid import write_aperio, write_generic
from synthetic.regions import GLASS, KINDS, RegionMap, draw_regions, to_geojson
from synthetic.stain import SITES, _density_gain


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("scale", [1.0, 3.2, 30.0, 200.0])
def test_a_field_is_the_same_through_every_block(scale: float, rng: np.random.Generator) -> None:
    field = smooth_field((300, 260), scale, rng)
    whole = Block(0, 0, 300, 260).of(field)
    assert whole.shape == (260, 300)
    np.testing.assert_allclose(Block(37, 101, 171, 202).of(field), whole[101:202, 37:171], atol=1e-5)
    np.testing.assert_allclose(Block(37, 101, 171, 202, every=4).of(field), whole[101:202:4, 37:171:4], atol=1e-5)
    assert Block(-5, -5, 10, 10).of(field).shape == (15, 15)


def test_points_and_blocks_agree(rng: np.random.Generator) -> None:
    field = smooth_field((300, 260), 30.0, rng)
    whole = Block(0, 0, 300, 260).of(field)
    x, y = rng.integers(20, 240, (2, 50))
    at_points = Points(x.astype(np.float32), y.astype(np.float32)).of(field)
    np.testing.assert_allclose(at_points, whole[y, x], atol=1e-5)


def test_smooth_field_has_its_correlation_length(rng: np.random.Generator) -> None:
    values = Block(0, 0, 2000, 2000).of(smooth_field((2000, 2000), 40.0, rng))
    assert abs(float(values.std()) - 1) < 0.15

    def correlation(lag: int) -> float:
        return float(np.corrcoef(values[:, :-lag].ravel(), values[:, lag:].ravel())[0, 1])

    assert correlation(8) > 0.8
    assert abs(correlation(100)) < 0.1


def test_ramp() -> None:
    np.testing.assert_allclose(ramp(np.array([0.0, 1.0, 1.5, 3.0], np.float32), 1, 2), [0, 0, 0.5, 1])


def test_nuclei_have_their_size_and_direction(rng: np.random.Generator) -> None:
    bank = draw_bank(SPINDLE, 0.5, rng)
    rows, columns = np.indices(bank.shape[-2:])
    for direction, spread_wider in ((0, columns), (8, rows)):
        inside = bank[direction].mean(axis=0) > 0.2
        other = rows if spread_wider is columns else columns
        assert spread_wider[inside].std() > 2.5 * other[inside].std()
    lymphocyte = draw_bank(LYMPHOCYTE, 0.25, rng)
    diameter = 2 * np.sqrt((lymphocyte > 0.3).sum(axis=(2, 3)).mean() / np.pi) * 0.25
    assert diameter == pytest.approx(6.0, abs=0.6)


def test_scatter_is_even_and_within(rng: np.random.Generator) -> None:
    points = scatter((500, 400), 20, 0.1, rng)
    assert (points >= 0).all()
    assert (points < [500, 400]).all()
    assert len(points) == pytest.approx(500 * 400 / (20**2 * np.sqrt(3) / 2), rel=0.1)
    distance = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1)) + 1e6 * np.eye(len(points))
    assert distance.min() > 5


def test_stamp_cuts_at_the_border(rng: np.random.Generator) -> None:
    bank = np.ones((16, 1, 7, 7), np.float32)
    canvas = np.zeros((20, 30), np.float32)
    stamp(canvas, Points(np.float32([0, 29, 15]), np.float32([0, 19, 10])), np.zeros(3), bank, rng)
    assert canvas[:4, :4].all()
    assert canvas[-4:, -4:].all()
    assert canvas[7:14, 12:19].all()
    assert canvas.sum() == 16 + 16 + 49


def test_outline_does_not_know_the_label() -> None:
    maps = [
        draw_regions((3000, 3000), 0.5, share, np.random.default_rng(1), np.random.default_rng(2))
        for share in (0.0, 0.3)
    ]
    np.testing.assert_array_equal(maps[0].kinds == GLASS, maps[1].kinds == GLASS)
    assert maps[0].fraction("carcinoma") == 0
    assert 0.15 < maps[1].fraction("carcinoma") < 0.45
    assert all(maps[1].fraction(kind) > 0.05 for kind in KINDS)


def test_geojson_of_a_ring_has_a_hole() -> None:
    kinds = np.full((12, 12), GLASS, np.uint8)
    kinds[1:11, 1:11] = KINDS.index("stroma")
    kinds[4:8, 4:8] = KINDS.index("fat")
    collection = to_geojson(RegionMap(kinds, 16), (190, 190))
    rings = {f["properties"]["classification"]["name"]: f["geometry"]["coordinates"] for f in collection["features"]}
    assert set(rings) == {"stroma", "fat"}
    assert [len(rings["stroma"]), len(rings["fat"])] == [2, 1]
    low, high = np.array(rings["stroma"][0]).min(), np.array(rings["stroma"][0]).max()
    assert abs(low - 16) <= 4
    assert abs(high - 176) <= 4


def test_density_gain_reaches_the_transmission(rng: np.random.Generator) -> None:
    density = rng.gamma(2, 0.3, 10_000).astype(np.float32)
    gain = _density_gain(density, 0.6)
    assert np.exp(-gain * density).mean() == pytest.approx(0.6, abs=1e-3)


def test_mean_colours_of_the_sites_differ() -> None:
    means = np.stack([stain.mean_colour for stain in SITES.values()])
    assert np.ptp(means, axis=0).max() > 10


@pytest.fixture
def picture(rng: np.random.Generator) -> np.ndarray:
    x, y = np.meshgrid(np.arange(1100), np.arange(700))
    return np.stack([x / 5, y / 4, 128 + 60 * np.sin(x / 90)], axis=-1).astype(np.uint8)


def test_generic_tiff(picture: np.ndarray, tmp_path: Path) -> None:
    write_generic(tmp_path / "slide.tif", picture, 0.5, 95)
    assert [path.name for path in tmp_path.iterdir()] == ["slide.tif"]
    with openslide.OpenSlide(tmp_path / "slide.tif") as slide:
        assert slide.level_dimensions == ((1100, 700), (550, 350), (275, 175))
        assert float(slide.properties["openslide.mpp-x"]) == 0.5
        assert slide.properties["tiff.ResolutionUnit"] == "centimeter"
        read = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    assert np.abs(read.astype(int) - picture).mean() < 2
    with tifffile.TiffFile(tmp_path / "slide.tif") as file:
        assert all(page.is_tiled and page.compression == 7 for page in file.pages)


def test_aperio_tiff(picture: np.ndarray, tmp_path: Path) -> None:
    write_aperio(tmp_path / "slide.svs", picture, 0.25, 95)
    with openslide.OpenSlide(tmp_path / "slide.svs") as slide:
        assert slide.level_dimensions == ((1100, 700), (275, 175))
        assert slide.properties["openslide.vendor"] == "aperio"
        assert slide.properties["openslide.objective-power"] == "40"
        assert float(slide.properties["aperio.MPP"]) == 0.25
        assert slide.associated_images["thumbnail"].size == (512, 326)
        read = np.asarray(slide.read_region((600, 300), 0, (500, 400)).convert("RGB"))
    assert np.abs(read.astype(int) - picture[300:, 600:]).mean() < 2
    with tifffile.TiffFile(tmp_path / "slide.svs") as file:
        assert file.is_svs
        assert [page.is_tiled for page in file.pages] == [True, False, True]
