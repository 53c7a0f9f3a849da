from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.backends import image as plain
from sgcl_cli.slide.open.backends import strips
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.slide.read.bands import Patch, read
from sgcl_cli.slide.read.direct import opened

WIDTH, HEIGHT = 300, 200


def picture(channels: int = 3) -> np.ndarray:
    rows, columns = np.indices((HEIGHT, WIDTH))
    ramps = [columns * 255 // WIDTH, rows * 255 // HEIGHT, (columns + rows) % 256, np.full_like(rows, 255)]
    return np.stack(ramps[:channels], axis=-1).astype(np.uint8)


def by_pillow(path: Path, pixels: np.ndarray, compression: str | None, rows: int = 16) -> Path:
    Image.fromarray(pixels).save(path, compression=compression, tiffinfo={278: rows})
    return path


def region(path: Path, corner: tuple[int, int] = (0, 0), size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    with Slide(path, given_mpp=0.5) as slide:
        assert slide.library == "plain" and slide.size == (WIDTH, HEIGHT) and slide.downsamples == (1.0,)
        return slide.region(corner, size, size)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("rows", [1, 16, 1000])
def test_strips_of_any_compression(tmp_path, compression, rows):
    path = by_pillow(tmp_path / "a.tif", picture(), compression, rows)
    assert np.array_equal(region(path), picture())
    assert np.array_equal(region(path, (33, 45), (100, 77)), picture()[45:122, 33:133])


def test_strips_of_jpeg(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(picture()).save(path, compression="jpeg", quality=95, tiffinfo={278: 16})
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages.first.jpegtables and len(tiff.pages.first.dataoffsets) > 1
    assert np.abs(region(path).astype(int) - picture()).mean() < 4


@pytest.mark.parametrize("settings", [{"bigtiff": True}, {"byteorder": ">"}, {"predictor": True}])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_kinds_of_tiff(tmp_path, settings, compression):
    writing = {name: value for name, value in settings.items() if name != "predictor"}
    predictor = bool(compression) and settings.get("predictor")
    with tifffile.TiffWriter(tmp_path / "a.tif", **writing) as tiff:
        tiff.write(
            picture(),
            photometric="rgb",
            rowsperstrip=24,
            compression=compression,
            predictor=predictor,
            resolution=(2e4, 2e4),
            resolutionunit="CENTIMETER",
        )
    with Slide(tmp_path / "a.tif") as slide:
        assert (slide.mpp, slide.mpp_source) == (0.5, "tiff")
        assert np.array_equal(slide.region((0, 0), (WIDTH, HEIGHT), (WIDTH, HEIGHT)), picture())


def test_grey_palette_and_transparency(tmp_path):
    grey = picture()[..., 0]
    for name, image in (
        ("grey", Image.fromarray(grey)),
        ("bits", Image.fromarray(np.where(grey > 127, 255, 0).astype(np.uint8)).convert("1")),
        ("palette", Image.fromarray(picture()).quantize(16)),
        ("alpha", Image.fromarray(np.dstack([picture(), np.where(grey > 127, 255, 0).astype(np.uint8)]))),
    ):
        expected = np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")))
        image.save(tmp_path / f"{name}.tif", compression="tiff_lzw")
        assert np.array_equal(region(tmp_path / f"{name}.tif"), expected[..., :3]), name


def test_white_is_zero(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", picture()[..., 0], photometric="miniswhite", rowsperstrip=20)
    assert np.array_equal(region(tmp_path / "a.tif")[..., 0], 255 - picture()[..., 0])


@pytest.mark.parametrize(
    ("pixels", "settings", "reason"),
    [
        (picture().astype(np.uint16), {"photometric": "rgb"}, "has 16 bits a sample"),
        (picture()[..., 0].astype(np.float32), {}, "has 32 bits a sample"),
        (picture().transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}, "separate planes"),
        (picture(4), {"photometric": "separated"}, "4 samples a pixel as SEPARATED"),
        (picture()[..., 0][None].repeat(3, 0), {"photometric": "minisblack"}, "stack of 3 images"),
    ],
)
def test_what_is_no_picture_of_a_slide_is_refused(tmp_path, pixels, settings, reason):
    tifffile.imwrite(tmp_path / "a.tif", pixels, metadata=None, **settings)
    with pytest.raises(SlideError, match=reason) as caught:
        Slide(tmp_path / "a.tif", given_mpp=0.5)
    assert caught.value.message.startswith("a.tif") and caught.value.hint


@pytest.mark.parametrize(
    ("pixels", "settings", "reason"),
    [
        (picture().astype(np.uint16), {"photometric": "rgb"}, "has 16 bits a sample"),
        (picture().transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}, "separate planes"),
        (picture()[..., 0][None].repeat(3, 0), {"photometric": "minisblack"}, "stack of 3 images"),
    ],
)
def test_the_same_is_refused_in_tiles(tmp_path, pixels, settings, reason):
    tifffile.imwrite(tmp_path / "a.tif", pixels, metadata=None, tile=(128, 128), **settings)
    with pytest.raises(SlideError, match=reason) as caught:
        Slide(tmp_path / "a.tif", given_mpp=0.5)
    assert caught.value.message.startswith("a.tif") and caught.value.hint


def test_a_stack_of_imagej_is_one_too(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", picture()[..., 0][None].repeat(5, 0), imagej=True)
    with pytest.raises(SlideError, match="stack of 5 images"):
        Slide(tmp_path / "a.tif", given_mpp=0.5)


def test_large_strips_are_refused_before_decoding(tmp_path, monkeypatch):
    by_pillow(tmp_path / "one.tif", picture(), "tiff_lzw", HEIGHT)
    monkeypatch.setattr(plain, "MOST_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(SlideError, match="strips of 300 x 200 pixels") as caught:
        Slide(tmp_path / "one.tif", given_mpp=0.5)
    assert "vips tiffsave" in caught.value.hint


def test_cut_short_and_damaged_files(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(noise, photometric="rgb", rowsperstrip=20, compression="zlib")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    (tmp_path / "cut.tif").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(SlideError, match="of 10 strips lie beyond its end"):
        Slide(tmp_path / "cut.tif", given_mpp=0.5)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        offset, count = tiff.pages.first.dataoffsets[4], tiff.pages.first.databytecounts[4]
    data[offset : offset + count] = bytes(count)
    (tmp_path / "a.tif").write_bytes(data)
    with Slide(tmp_path / "a.tif", given_mpp=0.5) as slide:
        with pytest.raises(SlideError, match="strip 4 of 10"):
            slide.region((0, 0), (WIDTH, HEIGHT), (WIDTH, HEIGHT))
        assert np.array_equal(slide.region((0, 100), (WIDTH, 100), (WIDTH, 100)), noise[100:])


def test_strips_are_decoded_once_and_kept_within_bounds(tmp_path, monkeypatch):
    path = by_pillow(tmp_path / "a.tif", picture(), "tiff_lzw")
    decoded: list[int] = []
    decode = strips.PlainTiff._decode
    monkeypatch.setattr(strips.PlainTiff, "_decode", lambda self, level, n: decoded.append(n) or decode(self, level, n))
    corners, patch = np.array([(x, y) for y in (0, 60, 120) for x in range(0, 240, 60)]), Patch(60.0, 60)
    with Slide(path, given_mpp=0.5) as slide, opened(slide, corners, patch) as (source, plan):
        assert (source.path, source.why) == ("plain", "it is not a tiled TIFF")
        for band in plan:
            for position, pixels in read(slide, source, band, corners, patch):
                x, y = corners[position]
                assert np.array_equal(pixels, picture()[y : y + 60, x : x + 60])
        assert sorted(decoded) == list(range(12))
        monkeypatch.setattr(strips, "_KEPT", 3 * 16 * WIDTH * 3)
        slide.region((0, 0), (WIDTH, HEIGHT), (WIDTH, HEIGHT))
        assert len(slide._backend._decoded) == 3 and slide._backend._held <= strips._KEPT


def test_uncompressed_images_may_be_of_any_size(tmp_path):
    """7 GB in one strip, most of it a hole."""
    width, height = 20_000, 120_000
    path, start = tmp_path / "huge.tif", 4096
    entries = [
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 2048), (259, 3, 1, 1), (262, 3, 1, 2)),
        *((273, 16, 1, start), (277, 3, 1, 3), (278, 4, 1, height), (279, 16, 1, width * height * 3), (284, 3, 1, 1)),
    ]
    packed = b"".join(
        struct.pack("<HHQ8s", code, kind, count, _value(code, value)) for code, kind, count, value in entries
    )
    with path.open("wb") as stream:
        stream.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) + struct.pack("<Q", len(entries)) + packed + bytes(8))
        stream.truncate(start + width * height * 3)
        stream.seek(start + ((height - 5) * width + width - 7) * 3)
        stream.write(bytes([10, 20, 30]))
    with Slide(path, given_mpp=0.25) as slide:
        corner = slide.region((width - 100, height - 100), (100, 100), (100, 100))
        assert slide.size == (width, height) and len(slide._backend._levels[0].places) == 469
    assert corner[95, 93].tolist() == [10, 20, 30] and corner.sum() == 60


def _value(code: int, value: int) -> bytes:
    return struct.pack("<3H2x", 8, 8, 8) if code == 258 else struct.pack("<Q", value)


def test_real_image(real_data: Path):
    with Slide(real_data / "vendor" / "kidney-48-5.tif", given_mpp=0.5) as slide:
        expected: Any = tifffile.imread(real_data / "vendor" / "kidney-48-5.tif")
        assert slide.size == (1493, 901)
        assert np.array_equal(slide.region((500, 300), (400, 400), (400, 400)), expected[300:700, 500:900])
    with pytest.raises(SlideError, match="stack of 3 images"):
        Slide(real_data / "vendor" / "small_vectra.qptiff", given_mpp=0.5)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_tiles_with_an_orientation_are_read_as_stored(tmp_path, orientation):
    """OpenSlide rotates each tile where it is, which scrambles the slide."""
    settings = {"photometric": "rgb", "metadata": None, "resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    pixels = np.pad(picture(), ((0, 56), (0, 212), (0, 0)))
    extra = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(256, 256), extratags=extra, **settings)
    with Slide(tmp_path / "a.tif") as slide:
        assert slide.library == ("openslide" if orientation == 1 else "plain") and slide.mpp == 0.5
        assert np.array_equal(slide.pixels(0, (0, 0), slide.size), pixels)


def test_an_unspecified_fourth_sample_is_no_transparency(tmp_path):
    pixels = np.pad(picture(), ((0, 56), (0, 212), (0, 0)))
    four = np.dstack([pixels, np.zeros_like(pixels[..., 0])])
    settings = {"tile": (256, 256), "photometric": "rgb", "metadata": None}
    tifffile.imwrite(tmp_path / "unknown.tif", four, extrasamples=["unspecified"], **settings)
    tifffile.imwrite(tmp_path / "alpha.tif", four, extrasamples=["unassalpha"], **settings)
    with Slide(tmp_path / "unknown.tif", given_mpp=0.5) as slide:
        assert np.array_equal(slide.pixels(0, (0, 0), slide.size), pixels)
    with Slide(tmp_path / "alpha.tif", given_mpp=0.5) as slide:
        assert (slide.pixels(0, (0, 0), slide.size) == 255).all()
