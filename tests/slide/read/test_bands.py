from __future__ import annotations

import numpy as np
import pytest

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.slide.read import bands
from sgcl_cli.slide.read.bands import Patch, ThroughOpenSlide, plan, read


def lattice(columns: int, rows: int, step: float) -> np.ndarray:
    grid = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    return np.floor(grid * step + 0.5).astype(np.int64)


class Paper:
    """A source without pixels."""

    path, why, pitch, size = "paper", "", 1.0, (100_000, 100_000)

    def place(self, pixel: int) -> float:
        return pixel


def test_bands_follow_the_files_order_and_hold_every_patch_once():
    corners = lattice(40, 30, 256)
    planned = plan(corners, Patch(256.0, 256), Paper())
    assert [band.start for band in planned[1:]] == [band.stop for band in planned[:-1]]
    assert (planned[0].start, planned[-1].stop) == (0, 1200)
    assert [band.stop - band.start for band in planned] == [320, 320, 320, 240]
    for band in planned:
        held = np.concatenate([block.patches for block in band.blocks])
        assert sorted([*held, *band.single]) == list(range(band.start, band.stop))


def test_blocks_are_bounded_and_filled():
    rows, columns = np.indices((30, 40))
    ring = np.abs(np.hypot(rows - 15, columns - 20) - 12) < 1.5
    corners = lattice(40, 30, 256)[ring.ravel()]
    blocks = [block for band in plan(corners, Patch(256.0, 256), Paper()) for block in band.blocks]
    for block in blocks:
        width, height = block.box.size
        assert max(width, height) <= bands.SIDE
        assert len(block) * 256**2 >= 0.7 * width * height
    assert sum(map(len, blocks)) == len(corners)


def test_bands_of_coordinates_in_any_order_are_bounded():
    corners = np.random.default_rng(0).permutation(lattice(30, 30, 256))
    planned = plan(corners, Patch(256.0, 256), Paper())
    held = [position for band in planned for block in band.blocks for position in block.patches.tolist()]
    assert sorted(held) == list(range(900))


def test_a_band_holds_no_more_patches_than_may_wait():
    corners = lattice(500, 8, 256)
    assert max(band.stop - band.start for band in plan(corners, Patch(256.0, 256), Paper())) == bands.PATCHES


@pytest.mark.parametrize("mpp", [0.25, 0.33, 0.4, 0.5, 0.63, 1.0, 1.1])
def test_field_of_view_through_openslide(position_slide, position_of, mpp):
    path, axis = position_slide
    extent = 256 * mpp / 0.25
    corners = np.array([(0, 0), (1, 1), (302, 302), (517, 517), (390, 390)])
    corners = corners[(corners + extent <= 1536).all(axis=1)]
    with Slide(path) as slide:
        source = ThroughOpenSlide(slide, slide.best_level(mpp), "")
        (band,) = plan(corners, Patch(extent, 256), source)
        source.expect([band])
        patches = dict(read(slide, source, band, corners, Patch(extent, 256)))
    assert sorted(patches) == list(range(len(corners)))
    for position, patch in patches.items():
        corner = corners[position, 0]
        positions = position_of(patch, axis, near=corner)
        step, near = np.polyfit(np.arange(256) + 0.5, positions, 1)
        assert near == pytest.approx(corner, abs=0.5)
        assert near + step * 256 == pytest.approx(corner + extent, abs=0.5)


def test_patches_are_what_a_loop_over_corners_reads(write_pyramid, tissue_like):
    corners = lattice(5, 4, 256 * 1.1)
    with Slide(write_pyramid("a.tif", tissue_like)) as slide:
        source = ThroughOpenSlide(slide, 0, "")
        for shape in (Patch(256.0, 256), Patch(256.0, 128)):
            for band in plan(corners, shape, source):
                for position, patch in read(slide, source, band, corners, shape):
                    x, y = corners[position].tolist()
                    expected = slide.region((x, y), (shape.extent,) * 2, (shape.size,) * 2)
                    assert np.abs(patch.astype(int) - expected).max() <= 1


def test_huge_windows_are_read_in_pieces(write_pyramid, tissue_like, monkeypatch):
    monkeypatch.setattr(bands, "SIDE", 512)
    shape, corners = Patch(1024.0, 64), np.array([(0, 0), (256, 128)])
    with Slide(write_pyramid("a.tif", tissue_like)) as slide:
        source = ThroughOpenSlide(slide, 0, "")
        planned = plan(corners, shape, source)
        assert [(band.blocks, band.single) for band in planned] == [((), (0,)), ((), (1,))]
        patches = dict(read(slide, source, planned[1], corners, shape))
    expected = tissue_like[128:1152, 256:1280].reshape(64, 16, 64, 16, 3).mean(axis=(1, 3))
    assert np.abs(patches[1] - expected).max() <= 0.51


def test_what_cannot_be_read_costs_its_own_patches_only(write_jpeg_pyramid, tissue_like):
    path = write_jpeg_pyramid("a.tif", tissue_like, broken=[(2, 1)])
    corners, shape = lattice(6, 5, 256), Patch(256.0, 256)
    with Slide(path) as slide:
        source = ThroughOpenSlide(slide, 0, "")
        (band,) = plan(corners, shape, source)
        found = dict(read(slide, source, band, corners, shape))
    failed = [position for position, patch in found.items() if isinstance(patch, SlideError)]
    assert failed == [8] and len(found) == 30
    expected = tissue_like[256:512, 768:1024].astype(int)
    assert np.abs(found[9] - expected).mean() < 4
