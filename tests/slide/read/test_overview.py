from __future__ import annotations

import numpy as np
import pytest

from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.slide.read import overview
from sgcl_cli.slide.read.threads import Threads


@pytest.fixture(autouse=True)
def _small_counts_as_large(monkeypatch):
    monkeypatch.setattr(overview, "LARGE", 1000)
    monkeypatch.setattr(overview, "_BLOCK", 48)


def test_it_is_what_openslide_would_give(write_jpeg_pyramid, tissue_like, monkeypatch):
    with Slide(write_jpeg_pyramid("a.tif", tissue_like)) as slide:
        expected = slide.thumbnail()
        monkeypatch.setattr(Slide, "_region", None)
        for threads in (Threads(), Threads(lambda: 3)):
            with threads:
                found = overview.thumbnail(slide, threads)
            assert found.pixels.shape == expected.pixels.shape and found.scale == expected.scale
            assert found.mpp == expected.mpp and not found.unreadable.any()
            assert np.abs(found.pixels.astype(int) - expected.pixels).mean() < 1.5


def test_each_piece_lies_where_it_belongs(write_jpeg_pyramid):
    down, across = np.indices((1280, 1536))
    ramp = np.stack([across // 8, down // 8, np.full_like(across, 128)], axis=2).astype(np.uint8)
    with Slide(write_jpeg_pyramid("ramp.tif", ramp)) as slide:
        thumbnail = overview.thumbnail(slide)
    rows, columns = np.indices(thumbnail.pixels.shape[:2])
    for channel, positions in enumerate((columns, rows)):
        expected = ((positions + 0.5) * thumbnail.scale[channel] - 4) / 8
        assert np.abs(thumbnail.pixels[..., channel] - expected).max() < 2  # grey levels, of 8 level-0 pixels each


def test_damaged_tiles_are_unreadable_and_missing_ones_are_background(write_jpeg_pyramid, tissue_like):
    path = write_jpeg_pyramid("a.tif", tissue_like, broken=[(2, 1)], missing=[(4, 3)])
    with Slide(path) as slide:
        thumbnail = overview.thumbnail(slide)
    assert thumbnail.unreadable[9:15, 17:23].all()
    assert not thumbnail.unreadable[:7].any() and not thumbnail.unreadable[17:].any()
    assert (thumbnail.pixels[25:31, 33:39] == 255).all()


def test_small_levels_and_other_files_are_left_to_openslide(
    write_jpeg_pyramid, write_pyramid, tissue_like, monkeypatch
):
    monkeypatch.setattr(overview, "LARGE", 1280 * 1536)
    with Slide(write_jpeg_pyramid("a.tif", tissue_like)) as slide:
        assert np.array_equal(overview.thumbnail(slide).pixels, slide.thumbnail().pixels)
    monkeypatch.setattr(overview, "LARGE", 1000)
    with Slide(write_pyramid("b.tif", tissue_like)) as slide:
        assert np.array_equal(overview.thumbnail(slide).pixels, slide.thumbnail().pixels)
