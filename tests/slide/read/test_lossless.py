from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from simplejpeg import decode_jpeg

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.slide.read import direct, lossless
from sgcl_cli.slide.read.bands import Patch
from sgcl_cli.slide.tissue.focus import sample

CORNERS = np.array([(0, 0), (256, 0), (512, 256), (1280, 1024)])


@pytest.mark.parametrize("settings", [{}, {"tables": True}, {"rgb": True, "tables": True}], ids=str)
def test_native_bytes_are_whole_jpeg_files(write_jpeg_pyramid, tissue_like, settings):
    path, patch = write_jpeg_pyramid("a.tif", tissue_like, **settings), Patch(256.0, 256)
    content = path.read_bytes()
    with Slide(path) as slide, direct.opened(slide, CORNERS, patch) as (source, _):
        files = dict(lossless.files(source, CORNERS, patch, 90))
    for position, (x, y) in enumerate(CORNERS.tolist()):
        data = files[position].jpeg
        assert data[data.index(b"\xff\xda") :] in content
        assert np.array_equal(files[position].sample, sample(decode_jpeg(data)))
        with Image.open(io.BytesIO(data)) as image:
            assert (
                np.abs(np.asarray(image.convert("RGB")) - tissue_like[y : y + 256, x : x + 256].astype(int)).mean() < 4
            )


def test_tiles_of_a_reduced_level(write_jpeg_pyramid, tissue_like):
    path, patch = write_jpeg_pyramid("a.tif", tissue_like, tile=64, downsamples=(4,)), Patch(256.0, 64)
    with Slide(path) as slide, direct.opened(slide, CORNERS, patch) as (source, _):
        files = dict(lossless.files(source, CORNERS, patch, 90))
        expected = slide.pixels(1, (512, 256), (64, 64)).astype(int)
    with Image.open(io.BytesIO(files[2].jpeg)) as image:
        assert np.abs(np.asarray(image) - expected).max() <= 1


@pytest.mark.parametrize(
    ("corners", "patch"),
    [
        (CORNERS, Patch(256.0, 128)),
        (CORNERS, Patch(253.2, 256)),
        (CORNERS + 1, Patch(256.0, 256)),
        (CORNERS, Patch(512.0, 256)),
    ],
)
def test_patches_that_are_no_tiles_are_refused(write_jpeg_pyramid, tissue_like, corners, patch):
    path = write_jpeg_pyramid("a.tif", tissue_like)
    with Slide(path) as slide, direct.opened(slide, corners, patch) as (source, _):
        with pytest.raises(SlideError, match=r"a\.tif: its tiles are 256 x 256 pixels at 0\.25 µm/px") as caught:
            lossless.files(source, corners, patch, 90)
    assert "--mpp 0.25 --patch-size 256" in caught.value.hint


def test_slides_without_jpeg_tiles_are_refused(write_pyramid, tissue_like):
    patch = Patch(256.0, 256)
    with Slide(write_pyramid("a.tif", tissue_like)) as slide, direct.opened(slide, CORNERS, patch) as (source, _):
        with pytest.raises(SlideError, match="no native JPEG files to copy: .*not JPEG") as caught:
            lossless.files(source, CORNERS, patch, 90)
    assert "--lossless" in caught.value.hint


def test_missing_and_broken_tiles(write_jpeg_pyramid, tissue_like):
    path, patch = write_jpeg_pyramid("a.tif", tissue_like, missing=[(1, 0)], broken=[(2, 1)]), Patch(256.0, 256)
    with Slide(path) as slide, direct.opened(slide, CORNERS, patch) as (source, _):
        files = dict(lossless.files(source, CORNERS, patch, 90))
    with Image.open(io.BytesIO(files[1].jpeg)) as image:
        assert (np.asarray(image) == 255).all()
    assert isinstance(files[2], SlideError) and isinstance(files[3].jpeg, bytes)
