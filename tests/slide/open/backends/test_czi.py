from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import openslide
import pytest

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.backends import czi as backend
from sgcl_cli.slide.open.reader import Slide

TILE = 500


def write(path: Path, pixels: np.ndarray, mpp: float | None = 0.5, **plane) -> Path:
    """A CZI of subblocks, whose corner lies at (-300, 70); one subblock is left out."""
    library = pytest.importorskip("pylibCZIrw.czi", reason="pylibCZIrw is an extra")
    with library.create_czi(str(path), exist_ok=True) as writer:
        for top in range(0, pixels.shape[0], TILE):
            for left in range(0, pixels.shape[1], TILE):
                if (left, top) != (TILE, 0):
                    part = np.ascontiguousarray(pixels[top : top + TILE, left : left + TILE, ::-1])
                    writer.write(part, location=(left - 300, top + 70), plane=plane or None)
        metres = None if mpp is None else mpp * 1e-6
        writer.write_metadata("slide", scale_x=metres or 0.0, scale_y=metres or 0.0)
    return path


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    down, across = np.indices((1510, 2200))
    return np.stack([across % 256, down % 256, (across // 8 + down // 8) % 256], axis=2).astype(np.uint8)


def test_a_czi_that_openslide_does_not_open_is_read_with_its_resolution(tmp_path, pixels):
    path = write(tmp_path / "a.czi", pixels)
    with pytest.raises(openslide.OpenSlideError):
        openslide.OpenSlide(path)
    with Slide(path) as slide:
        assert slide.library == "czi" and slide.size == (2200, 1510) and slide.mpp == pytest.approx(0.5)
        assert slide.mpp_source == "openslide" and slide.level_sizes == ((2200, 1510), (1100, 755))
        assert np.array_equal(slide.pixels(0, (1203, 707), (400, 300)), pixels[707:1007, 1203:1603])
        assert (slide.pixels(0, (TILE, 0), (TILE, TILE)) == 255).all()
        over = slide.pixels(0, (2100, 1500), (200, 20))
        assert np.array_equal(over[:10, :100], pixels[1500:, 2100:]) and (over[10:] == 255).all()
        half = slide.pixels(1, (1200, 800), (100, 50)).astype(int)
        expected = pixels[800:900, 1200:1400].reshape(50, 2, 100, 2, 3).mean(axis=(1, 3))
        assert half.shape == (50, 100, 3) and np.median(np.abs(half - expected)) <= 2


def test_what_czi_records_of_no_use_is_refused_by_name(tmp_path, pixels):
    with pytest.raises(SlideError, match="records no"):
        Slide(write(tmp_path / "b.czi", pixels[:600, :600], mpp=None))
    path = tmp_path / "deep.czi"
    write(path, pixels[:400, :400].astype(np.uint16) * 100)
    with pytest.raises(SlideError, match="deep.czi has Bgr48 pixels"):
        Slide(path)
    library = pytest.importorskip("pylibCZIrw.czi")
    with library.create_czi(str(tmp_path / "stack.czi")) as writer:
        for z in (0, 1):
            writer.write(np.ascontiguousarray(pixels[:300, :300]), plane={"Z": z})
    with pytest.raises(SlideError, match="stack.czi is a stack of 2 images along Z"):
        Slide(tmp_path / "stack.czi")
    (tmp_path / "cut.czi").write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(SlideError, match="cut.czi cannot be read"):
        Slide(tmp_path / "cut.czi")


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pylibCZIrw", None)
    with pytest.raises(SlideError, match="odd subblocks; pylibCZIrw may be able to read it") as caught:
        backend.Czi(tmp_path / "a.czi", "odd subblocks")
    assert caught.value.hint == "pip install 'sgcl[czi]'"
