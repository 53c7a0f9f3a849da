from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.backends import image as plain
from sgcl_cli.slide.open.reader import Slide

WIDTH, HEIGHT = 300, 200


def picture(channels: int = 3) -> np.ndarray:
    rows, columns = np.indices((HEIGHT, WIDTH))
    ramps = [columns * 255 // WIDTH, rows * 255 // HEIGHT, (columns + rows) % 256, np.full_like(rows, 255)]
    return np.stack(ramps[:channels], axis=-1).astype(np.uint8)


def test_plain_image_is_read_with_a_given_resolution(tmp_path: Path):
    path = tmp_path / "plain.png"
    pixels = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    with Slide(path, given_mpp=0.5) as slide:
        assert slide.size == (96, 64)
        assert np.array_equal(slide.region((32, 0), (64, 64), (64, 64)), pixels[:, 32:])
    with pytest.raises(SlideError, match="no resolution"):
        Slide(path)


def test_transparent_pixels_take_the_background(tmp_path: Path):
    path = tmp_path / "alpha.png"
    pixels = np.zeros((16, 32, 4), np.uint8)
    pixels[:, 16:] = (10, 20, 30, 255)
    Image.fromarray(pixels).save(path)
    with Slide(path, given_mpp=0.5) as slide:
        region = slide.region((0, 0), (32, 16), (32, 16))
    assert (region[:, :16] == 255).all()
    assert (region[:, 16:] == (10, 20, 30)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_png_of_16_bits_is_refused(tmp_path, channels):
    cv2.imwrite(str(tmp_path / "a.png"), picture(channels).astype(np.uint16) * 257)
    with pytest.raises(SlideError, match=r"a\.png has more than 8 bits a sample"):
        Slide(tmp_path / "a.png", given_mpp=0.5)
    Image.new("CMYK", (40, 30)).save(tmp_path / "a.jpg")
    with pytest.raises(SlideError, match=r"a\.jpg has CMYK colours"):
        Slide(tmp_path / "a.jpg", given_mpp=0.5)


def test_sizes_are_capped_before_decoding(tmp_path, monkeypatch):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "load", None)
    for cap in (WIDTH * HEIGHT - 1, WIDTH * HEIGHT // 3):
        monkeypatch.setattr(plain, "MOST_PIXELS", cap)
        with pytest.raises(SlideError, match="too many for a file without tiles") as caught:
            Slide(tmp_path / "a.png", given_mpp=0.5)
        assert "vips tiffsave" in caught.value.hint


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_files_that_are_cut_short(tmp_path, suffix):
    Image.fromarray(picture()).save(tmp_path / f"a.{suffix}")
    data = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(SlideError, match="truncated"):
        Slide(tmp_path / f"cut.{suffix}", given_mpp=0.5)


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_and_palette(tmp_path, mode):
    image = Image.fromarray(picture()).convert(mode)
    image.save(tmp_path / "a.png")
    with Slide(tmp_path / "a.png", given_mpp=0.5) as slide:
        assert slide.library == "plain"
        assert np.array_equal(slide.region((0, 0), (WIDTH, HEIGHT), (WIDTH, HEIGHT)), np.asarray(image.convert("RGB")))
