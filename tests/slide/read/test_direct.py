from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.slide.read import bands, direct
from sgcl_cli.slide.read.bands import Band, Patch, WindowSource
from sgcl_cli.slide.read.direct import Direct
from sgcl_cli.slide.read.threads import Threads


def lattice(columns: int, rows: int, step: float) -> np.ndarray:
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    return np.floor(grid * step + 0.5).astype(np.int64)


@contextmanager
def opened(path: Path, corners: np.ndarray, shape: Patch) -> Iterator[tuple[Slide, WindowSource, list[Band]]]:
    with Slide(path) as slide, direct.opened(slide, corners, shape) as (source, plan):
        yield slide, source, plan


def patches_of(
    path: Path, corners: np.ndarray, shape: Patch
) -> tuple[dict[int, np.ndarray | SlideError], WindowSource]:
    with opened(path, corners, shape) as (slide, source, plan):
        found = {n: patch for band in plan for n, patch in bands.read(slide, source, band, corners, shape)}
    return found, source


@pytest.mark.parametrize("mpp", [0.25, 0.33, 0.4, 0.49, 0.5, 0.505, 0.63, 0.96, 1.0, 1.1])
def test_field_of_view_is_exact_to_half_a_pixel(position_slide, position_of, mpp):
    path, axis = position_slide
    extent = 256 * mpp / 0.25
    corners = np.array([(0, 0), (1, 1), (302, 302), (517, 517), (390, 390)])
    corners = corners[(corners + extent <= 1536).all(axis=1)]
    found, source = patches_of(path.with_name("jpeg.tif"), corners, Patch(extent, 256))
    assert source.path == "direct", source.why
    for position, patch in found.items():
        corner = corners[position, 0]
        positions = position_of(patch, axis, near=corner)
        step, near = np.polyfit(np.arange(256) + 0.5, positions, 1)
        assert near == pytest.approx(corner, abs=0.5)
        assert near + step * 256 == pytest.approx(corner + extent, abs=0.5)


@pytest.mark.parametrize(("mpp", "eighths"), [(0.25, 8), (0.4, 8), (0.49, 4), (0.5, 4), (0.9, 4), (1.0, 2), (2.0, 1)])
def test_tiles_are_scaled_while_they_are_decoded_where_that_resolves_enough(
    write_jpeg_pyramid, tissue_like, mpp, eighths
):
    path, shape = write_jpeg_pyramid("a.tif", tissue_like), Patch(64 * mpp / 0.25, 64)
    with opened(path, lattice(2, 2, shape.extent), shape) as (_, source, _):
        assert isinstance(source, Direct)
        assert source.tiles.eighths == eighths and source.pitch == 8 / eighths
        assert ("dB" in source.why) is (eighths < 8)


def test_pixels_are_openslides_to_one_grey_level(write_jpeg_pyramid, tissue_like):
    for name, settings in {"plain": {}, "tables": {"tables": True}, "rgb": {"rgb": True, "tables": True}}.items():
        path = write_jpeg_pyramid(f"{name}.tif", tissue_like, **settings)
        corners, shape = lattice(5, 4, 270.3), Patch(256.0, 256)
        found, source = patches_of(path, corners, shape)
        assert source.path == "direct" and "at most" in source.why
        with Slide(path) as slide:
            for position, (x, y) in enumerate(corners.tolist()):
                expected = slide.pixels(0, (x, y), (256, 256))
                assert np.abs(found[position].astype(int) - expected).max() <= direct.MOST_DIFFERENCE


@pytest.mark.parametrize("limit", [790, 769, 1024])
def test_the_check_looks_inside_tiles_that_end_before_their_middle(limit):
    pixel, shift = direct._unshifted(3, 256, limit, 3162 / 790)
    assert 768 <= pixel < limit
    assert shift == pytest.approx(abs(round(pixel * 3162 / 790) * 790 / 3162 - pixel))


def test_wrongly_labelled_colours_are_left_to_openslide(write_jpeg_pyramid, tissue_like, monkeypatch):
    path, shape = write_jpeg_pyramid("a.tif", tissue_like), Patch(256.0, 256)
    monkeypatch.setattr(direct.Tiles, "decode", lambda *_: np.full((256, 256, 3), 200, np.uint8))
    with opened(path, lattice(2, 2, 256), shape) as (_, source, _):
        assert source.path == "openslide" and "grey levels" in source.why


def test_what_scales_badly_is_decoded_in_full(write_jpeg_pyramid):
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    path, shape = write_jpeg_pyramid("noise.tif", noise), Patch(256.0, 128)
    with opened(path, lattice(2, 2, 256), shape) as (_, source, _):
        assert isinstance(source, Direct) and source.tiles.eighths == 8
        assert "dB" in source.why


@pytest.mark.parametrize(
    ("name", "reason"), [("uncompressed.tif", "NONE, not JPEG"), ("picture.png", "not a tiled TIFF")]
)
def test_other_slides_are_read_through_openslide_saying_why(write_pyramid, tissue_like, tmp_path, name, reason):
    if name.endswith("png"):
        path = tmp_path / name
        Image.fromarray(tissue_like).save(path)
    else:
        path = write_pyramid(name, tissue_like)
    corners, shape = lattice(3, 3, 256), Patch(256.0, 256)
    with Slide(path, default_mpp=0.25) as slide, direct.opened(slide, corners, shape) as (source, plan):
        assert source.path == ("plain" if name.endswith("png") else "openslide") and reason in source.why
        found = {n: patch for band in plan for n, patch in bands.read(slide, source, band, corners, shape)}
    assert np.array_equal(found[5], tissue_like[256:512, 512:768])


def test_each_tile_is_decoded_once(write_jpeg_pyramid, tissue_like, monkeypatch):
    monkeypatch.setattr(bands, "SIDE", 600)
    monkeypatch.setattr(bands, "PATCHES", 7)
    path, shape = write_jpeg_pyramid("a.tif", tissue_like, tile=64), Patch(150.0, 96)
    corners = lattice(10, 8, 150.0)
    with opened(path, corners, shape) as (slide, source, plan):
        assert isinstance(source, Direct) and len(plan) > 5
        needed = int((source.uses > 0).sum())
        found = {n: patch for band in plan for n, patch in bands.read(slide, source, band, corners, shape)}
        assert source.decoded == needed == 19 * 24 and not source.uses.any() and source.held == 0
    assert len(found) == 80


@pytest.mark.parametrize("way", ["direct", "openslide"])
def test_threads_change_nothing(write_jpeg_pyramid, tissue_like, monkeypatch, way):
    monkeypatch.setattr(bands, "SIDE", 600)
    if way == "openslide":
        monkeypatch.setattr(direct, "_tiled_level", lambda *_: (None, "told so"))
    path, shape = write_jpeg_pyramid("a.tif", tissue_like, tile=64, broken=[(9, 9)]), Patch(150.0, 96)
    corners = lattice(10, 8, 150.0)
    alone, _ = patches_of(path, corners, shape)
    with Threads(lambda: 4) as threads, opened(path, corners, shape) as (slide, source, plan):
        assert source.path == way
        found = {
            n: p
            for band in plan
            for n, p in bands.read(slide, source, band, corners, shape, finish=np.array, threads=threads)
        }
    assert sorted(found) == sorted(alone) == list(range(80))
    for position, patch in found.items():
        if isinstance(patch, SlideError):
            assert isinstance(alone[position], SlideError)
        else:
            assert np.array_equal(patch, alone[position])
    assert any(isinstance(patch, SlideError) for patch in found.values())


def test_threads_decode_each_tile_once_too(write_jpeg_pyramid, tissue_like):
    path, shape, corners = write_jpeg_pyramid("a.tif", tissue_like, tile=64), Patch(150.0, 96), lattice(10, 8, 150.0)
    with Threads(lambda: 4) as threads, opened(path, corners, shape) as (slide, source, plan):
        assert isinstance(source, Direct)
        for band in plan:
            for _ in bands.read(slide, source, band, corners, shape, finish=len, threads=threads):
                pass
        assert source.decoded == 19 * 24 and not source.uses.any() and source.held == 0


def test_tiles_kept_are_bounded(write_jpeg_pyramid, tissue_like, monkeypatch):
    monkeypatch.setattr(bands, "SIDE", 600)
    path, shape, corners = write_jpeg_pyramid("a.tif", tissue_like, tile=64), Patch(150.0, 96), lattice(10, 8, 150.0)
    plenty, _ = patches_of(path, corners, shape)
    with Slide(path) as slide, direct.opened(slide, corners, shape) as (source, plan):
        assert isinstance(source, Direct)
        source.capacity = 5 * 64 * 64 * 3
        most, scarce = 0, {}
        for band in plan:
            for position, patch in bands.read(slide, source, band, corners, shape):
                scarce[position] = patch
                most = max(most, source.held)
    assert 0 < most <= 5 * 64 * 64 * 3
    assert all(np.array_equal(plenty[position], patch) for position, patch in scarce.items())


def peak_of(work: Callable[[], object]) -> float:
    """MiB by which the process grew at most while it worked."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _high_water()
    work()
    return _high_water() - before


def _high_water() -> float:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**10


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's account of memory")
@pytest.mark.parametrize(
    ("way", "width"),
    [("direct", 16_000), ("direct", 150_000), pytest.param("openslide", 60_000, marks=pytest.mark.slow)],
)
def test_memory_is_bounded_whatever_the_width(write_repeated_tile, tissue_like, monkeypatch, way, width):
    if way == "openslide":
        monkeypatch.setattr(direct, "_tiled_level", lambda *_: (None, "told so"))
    path, shape = write_repeated_tile("wide.tif", tissue_like[:256, :256], (width, 3_000)), Patch(500.0, 256)
    corners = lattice(width // 500, 6, 500.0)

    def run() -> None:
        with opened(path, corners, shape) as (slide, source, plan):
            assert source.path == way, source.why
            count = sum(1 for band in plan for _ in bands.read(slide, source, band, corners, shape))
            assert count == len(corners)

    peak = peak_of(run)
    print(f"{way}, {width} pixels wide: {peak:.0f} MiB")
    assert peak < bands.MEMORY / 2**20


def test_missing_tiles_are_rendered_by_openslide(write_jpeg_pyramid, tissue_like):
    path = write_jpeg_pyramid("sparse.tif", tissue_like, missing=[(1, 0), (2, 1)])
    corners = lattice(6, 5, 256)
    for size in (256, 128):
        found, source = patches_of(path, corners, Patch(256.0, size))
        assert source.path == "direct"
        assert (found[1] == 255).all() and (found[8] == 255).all()
        assert found[2].std() > 5


def test_broken_tiles_cost_their_own_patches_only(write_jpeg_pyramid, tissue_like):
    path = write_jpeg_pyramid("a.tif", tissue_like, broken=[(2, 1)])
    found, source = patches_of(path, lattice(6, 5, 256), Patch(256.0, 256))
    assert source.path == "direct"
    assert [n for n, patch in sorted(found.items()) if isinstance(patch, SlideError)] == [8]
    assert "tile 2, 1" in found[8].message and found[8].hint
    between, _ = patches_of(path, np.array([(400, 100), (600, 300), (800, 100)]), Patch(256.0, 256))
    assert [isinstance(between[n], SlideError) for n in range(3)] == [True, True, False]


def test_real_slide(real_data):
    corners, shape = lattice(3, 3, 512) + np.array([5000, 5000]), Patch(0.4 / 0.2528 * 256, 256)
    found, source = patches_of(real_data / "wsi" / "metaplasia_HE.svs", corners, shape)
    assert source.path == "direct" and "at most 0 grey levels" in source.why
    with Slide(real_data / "wsi" / "metaplasia_HE.svs") as slide:
        for position, (x, y) in enumerate(corners.tolist()):
            expected = slide.region((x, y), (shape.extent,) * 2, (256, 256)).astype(int)
            assert np.abs(found[position] - expected).mean() < 1
