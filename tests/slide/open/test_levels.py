from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from sgcl_cli.slide.open.levels import differs, mismatch
from sgcl_cli.slide.open.reader import Slide


@pytest.mark.parametrize(
    ("size", "reduced"),
    [
        ((9272, 9923), (2318, 2481)),
        ((9272, 9923), (580, 621)),
        ((13198, 11685), (825, 731)),
        ((1000, 999), (500, 500)),
        ((100_000, 80_001), (3125, 2500)),
        ((5, 4), (1, 1)),
    ],
)
def test_one_factor_to_about_a_pixel_is_a_copy(size, reduced):
    assert mismatch(size, reduced) == ""


@pytest.mark.parametrize(
    ("size", "reduced", "words"),
    [
        ((8000, 2600), (4096, 1536), "4096 x 1536 pixels are a reduction by 1.953 in width and by 1.693 in height"),
        ((20_000, 15_000), (1280, 431), "by 15.62 in width and by 34.8 in height"),
        ((1000, 1000), (500, 503), "by 2 in width and by 1.988 in height"),
    ],
)
def test_two_factors_are_no_copy(size, reduced, words):
    assert words in mismatch(size, reduced)


def test_content_of_a_copy_and_of_another_picture(tissue_like):
    window = np.asarray(cv2.resize(tissue_like[:512, :512], (128, 128), interpolation=cv2.INTER_AREA))
    assert not differs(window, tissue_like[:512, :512])
    assert differs(window, tissue_like[512:1024, 512:1024])
    assert differs(window, np.full((512, 512, 3), 255, np.uint8))
    assert not differs(np.full((128, 128, 3), 240, np.uint8), np.full((512, 512, 3), 255, np.uint8))


def write(path: Path, pages: list[NDArray[np.uint8]], mpp: float = 0.5, flagged: bool = True, tile: int = 256) -> Path:
    """A tiled TIFF whose further pages are flagged as reduced copies of the first one."""
    with tifffile.TiffWriter(path) as tiff:
        for number, page in enumerate(pages):
            tiff.write(
                page,
                tile=(tile, tile),
                photometric="rgb",
                metadata=None,
                subfiletype=int(flagged and number > 0),
                resolution=(1e4 / mpp, 1e4 / mpp),
                resolutionunit="CENTIMETER",
            )
    return path


def reduced(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    size = pixels.shape[1] // factor, pixels.shape[0] // factor
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def padded(pixels: NDArray[np.uint8], side: int = 256) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    return np.pad(pixels, ((0, -height % side), (0, -width % side), (0, 0)), constant_values=255)


def test_levels_padded_to_whole_tiles_are_not_read(tmp_path, tissue_like):
    whole = tissue_like[:1000, :1300]
    path = write(tmp_path / "a.tif", [whole, padded(reduced(whole, 2)), padded(reduced(whole, 4))])
    with Slide(path) as slide:
        assert set(slide.unusable) == {1, 2} and slide.best_level(2.0) == 0
        assert len(slide.remarks) == 1 and "level 1: 768 x 512 pixels are" in slide.remarks[0]
        seen = slide.region((0, 0), (1300, 1000), (325, 250)).astype(int)
        assert np.abs(seen - reduced(whole, 4)).mean() < 1
        thumbnail = slide.thumbnail(2.0)
        assert np.abs(thumbnail.pixels.astype(int) - reduced(whole, 4)).mean() < 1


def test_levels_padded_alike_across_and_down_are_found_by_their_content(tmp_path, tissue_like):
    whole = tissue_like[:1100, :1100]
    plain = write(tmp_path / "plain.tif", [whole, reduced(whole, 2)])
    square = write(tmp_path / "square.tif", [whole, padded(reduced(whole, 2))])
    with Slide(plain) as slide:
        assert not slide.unusable and not slide.remarks and slide.best_level(1.0) == 1
    with Slide(square) as slide:
        assert slide.unusable == {1: "its content differs from that of level 0"} and slide.best_level(1.0) == 0


@pytest.mark.parametrize(
    ("glass", "left_out"), [((200, 300), {(200, 300), (325, 250)}), ((700, 300), {(325, 250)})], ids=["small", "large"]
)
def test_a_photograph_of_the_glass_that_is_flagged_as_a_level_is_none(tmp_path, tissue_like, glass, left_out):
    """OpenSlide does not open the file with the larger one, whose place in the order of levels is wrong."""
    whole = tissue_like[:1000, :1300]
    macro = np.full((*glass[::-1], 3), 230, np.uint8)
    same_shape = np.ascontiguousarray(reduced(whole, 4)[::-1, ::-1])
    with Slide(write(tmp_path / "a.tif", [whole, reduced(whole, 2), macro, same_shape])) as slide:
        assert {slide.level_sizes[level] for level in slide.unusable} == left_out
        assert slide.best_level(2.0) == slide.level_sizes.index((650, 500))


@pytest.mark.parametrize("tiled_first", [True, False])
def test_the_largest_image_is_the_slide_whatever_page_it_stands_on(tmp_path, tissue_like, tiled_first):
    whole = tissue_like[:1000, :1300]
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tags = {"photometric": "rgb", "metadata": None, "resolutionunit": "CENTIMETER"}
        first = {"tile": (256, 256)} if tiled_first else {"rowsperstrip": 16}
        tiff.write(reduced(whole, 4), resolution=(5e3, 5e3), **first, **tags)
        tiff.write(whole, tile=(256, 256), compression="zlib", resolution=(2e4, 2e4), **tags)
        tiff.write(reduced(whole, 2), tile=(256, 256), resolution=(1e4, 1e4), subfiletype=1, **tags)
    with Slide(path) as slide:
        assert slide.size == (1300, 1000) and slide.mpp == 0.5 and slide.library == "plain"
        assert slide.level_sizes == ((1300, 1000), (650, 500)) and not slide.unusable
        assert np.array_equal(slide.region((700, 300), (500, 600), (500, 600)), whole[300:900, 700:1200])
        half = slide.region((600, 200), (400, 400), (200, 200)).astype(int)
        assert np.abs(half - reduced(whole[200:600, 600:1000], 2)).max() <= 1
