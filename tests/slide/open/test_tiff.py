from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import tifffile
from PIL import Image

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.tiff import check_whole, image_pages, largest_page, tiled_levels


@pytest.mark.parametrize("rgb", [False, True])
@pytest.mark.parametrize("tables", [False, True])
def test_a_tile_becomes_a_whole_jpeg_file_in_its_true_colours(write_jpeg_pyramid, tissue_like, tmp_path, rgb, tables):
    path = write_jpeg_pyramid("a.tif", tissue_like, rgb=rgb, tables=tables, downsamples=(4,))
    first, second = tiled_levels(path)
    assert (first.size, first.tile, first.counts.shape) == ((1536, 1280), (256, 256), (5, 6))
    assert second.size == (384, 320) and not first.obstacle
    data = path.read_bytes()
    for column, row in ((0, 0), (5, 4), (2, 3)):
        start = first.offsets[row, column]
        merged = first.jpeg(data[start : start + first.counts[row, column]])
        expected = tissue_like[row * 256 : (row + 1) * 256, column * 256 : (column + 1) * 256].astype(int)
        (tmp_path / "tile.jpg").write_bytes(merged)
        with Image.open(tmp_path / "tile.jpg") as image:
            assert np.abs(np.asarray(image.convert("RGB")) - expected).mean() < 4
        assert np.abs(simplejpeg.decode_jpeg(merged, "RGB") - expected).mean() < 4


def test_the_directory_decides_the_colours_whatever_the_tile_says(write_jpeg_pyramid, tissue_like):
    path = write_jpeg_pyramid("a.tif", tissue_like)
    (level,) = tiled_levels(path)
    pixels = tissue_like[:256, :256]
    jfif = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 95, "RGB", "420")
    assert jfif[2:4] == b"\xff\xe0"
    lying = jfif[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00" + jfif[20:]
    assert np.abs(simplejpeg.decode_jpeg(lying, "RGB").astype(int) - pixels).mean() > 20
    assert np.abs(simplejpeg.decode_jpeg(level.jpeg(lying), "RGB").astype(int) - pixels).mean() < 4


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd9", b"\xff\xd8", b"\xff\xd8abc", b"\xff\xd8\xff\xdb\x00\x00", bytes(50)]
)
def test_what_is_no_jpeg_is_refused(write_jpeg_pyramid, tissue_like, data):
    (level,) = tiled_levels(write_jpeg_pyramid("a.tif", tissue_like))
    with pytest.raises(ValueError, match="JPEG data"):
        level.jpeg(data)


def test_obstacles(write_pyramid, tissue_like, tmp_path):
    (level,) = tiled_levels(write_pyramid("a.tif", tissue_like))
    assert "NONE, not JPEG" in level.obstacle
    (tmp_path / "b.tif").write_text("no TIFF")
    assert tiled_levels(tmp_path / "b.tif") == []


def test_a_file_cut_short_is_refused(write_jpeg_pyramid, tissue_like):
    path = write_jpeg_pyramid("cut.tif", tissue_like, missing=[(1, 1)])
    check_whole(path)
    (level,) = tiled_levels(path)
    data = path.read_bytes()
    path.write_bytes(data[: level.offsets[4, 3] + 10])
    if tiled_levels(path):
        with pytest.raises(SlideError, match=r"cut\.tif is cut short: 3 of 30 tiles") as caught:
            check_whole(path)
        assert "copy" in caught.value.hint


def test_a_fifo_has_no_levels(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tif")
    assert tiled_levels(tmp_path / "a.tif") == []


def test_a_loop_of_directories_ends_at_the_first_one_seen_before(tmp_path: Path) -> None:
    path = tmp_path / "loop.tif"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), tile=(16, 16))
    data = bytearray(path.read_bytes())
    first = int.from_bytes(data[4:8], "little")
    end = first + 2 + 12 * int.from_bytes(data[first : first + 2], "little")
    assert data[end : end + 4] == bytes(4), "the position of the next directory"
    data[end : end + 4] = data[4:8]
    path.write_bytes(data)
    with tifffile.TiffFile(path) as tiff:
        assert [page.offset for page in image_pages(tiff)] == [first]
        assert largest_page(tiff) is not None
    assert len(tiled_levels(path)) == 1
