from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open import reader
from sgcl_cli.slide.open.reader import Slide

GREY = np.full((512, 768, 3), 200, np.uint8)


@pytest.mark.parametrize(
    ("mpp", "level"), [(0.24, 0), (0.25, 0), (0.33, 0), (0.5, 0), (0.63, 0), (0.96, 1), (1.0, 1), (1.1, 1)]
)
@pytest.mark.parametrize("corner", [0, 517, 302])
def test_field_of_view_is_exact_to_half_a_pixel(position_slide, position_of, mpp, level, corner):
    path, axis = position_slide
    extent = 256 * mpp / 0.25
    with Slide(path) as slide:
        assert slide.best_level(mpp) == level
        patch = slide.region((corner, corner), (extent, extent), (256, 256))
    positions = position_of(patch, axis, near=corner)
    step, near = np.polyfit(np.arange(256) + 0.5, positions, 1)
    assert near == pytest.approx(corner, abs=0.5)
    assert near + step * 256 == pytest.approx(corner + extent, abs=0.5)
    assert np.abs(positions - (near + step * (np.arange(256) + 0.5))).max() < 0.5


def test_averages_areas(write_pyramid):
    checks = (np.indices((512, 512)).sum(axis=0) % 2 * 200).astype(np.uint8)
    path = write_pyramid("checks.tif", np.repeat(checks[..., None], 3, axis=2), mpp=0.25)
    with Slide(path) as slide:
        patch = slide.region((0, 0), (512, 512), (256, 256))
    assert (patch == 100).all()


def test_far_corner_shows_no_background(write_pyramid):
    path = write_pyramid("grey.tif", GREY, downsamples=(4,))
    with Slide(path) as slide:
        assert (slide.region((768 - 511, 512 - 511), (511, 511), (128, 128)) == 200).all()


def test_upsampling_is_bounded(write_pyramid):
    with Slide(write_pyramid("coarse.tif", GREY, mpp=0.52)) as slide:
        slide.check_resolves(0.5)
        with pytest.raises(SlideError, match=r"level 0 is 0\.52 µm/px, asked for 0\.48") as caught:
            slide.check_resolves(0.48)
    assert "--mpp >= 0.52" in caught.value.hint and "--allow-upsample" in caught.value.hint


def test_thumbnail_covers_the_whole_slide_in_blocks(write_pyramid, monkeypatch):
    ramp = np.zeros((1536, 2048, 3), np.uint8)
    ramp[..., 0] = np.arange(2048) // 8
    ramp[..., 1] = (np.arange(1536) // 8)[:, None]
    path = write_pyramid("ramp.tif", ramp)
    with Slide(path) as slide:
        whole = slide.thumbnail(mpp=4.0)
        monkeypatch.setattr(reader, "_BLOCK", 300)
        blocks = slide.thumbnail(mpp=4.0)
        assert slide.thumbnail(mpp=0.001, longest=100).pixels.shape == (75, 100, 3)
    assert whole.pixels.shape == (96, 128, 3)
    assert whole.scale == (16.0, 16.0)
    assert whole.mpp == 4.0
    assert np.array_equal(whole.pixels, blocks.pixels)
    assert whole.pixels[0, -1, 0] >= 254 and whole.pixels[-1, 0, 1] >= 190


def test_thumbnail_never_upsamples(write_pyramid):
    with Slide(write_pyramid("coarse.tif", GREY, mpp=20.0)) as slide:
        assert slide.thumbnail().pixels.shape == GREY.shape


@pytest.mark.parametrize(
    "tags",
    [
        {"mpp": None},
        {"unit": "NONE"},
        {"dpi": 72},
        {"dpi": 96},
        {"dpi": 150},
        {"dpi": 300},
        {"mpp": 51.0},
        {"mpp": 0.04},
    ],
    ids=str,
)
def test_incredible_tags_are_no_resolution(write_pyramid, tags):
    path = write_pyramid("tags.tif", GREY, **tags)
    with pytest.raises(SlideError, match="records no resolution") as caught:
        Slide(path)
    assert "--slide-mpp" in caught.value.hint
    with Slide(path, default_mpp=0.4) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.4, "given")


def test_dpi_of_a_scanner_is_believed(write_pyramid):
    with Slide(write_pyramid("inch.tif", GREY, dpi=25_400 / 0.5)) as slide:
        assert slide.mpp == pytest.approx(0.5) and slide.mpp_source == "tiff"


def test_resolution_of_the_vendor_and_overrides(write_pyramid):
    path = write_pyramid("vendor.svs", GREY, aperio="|MPP = 0.5")
    with Slide(path, default_mpp=0.3) as slide:
        assert (slide.mpp, slide.mpp_source, slide.magnification) == (0.5, "openslide", 20)
    with Slide(path, given_mpp=0.3) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.3, "given")


@pytest.mark.parametrize("text", ["0", "-0.5", "nan", "inf", "300"])
def test_impossible_record_of_the_vendor_is_refused(write_pyramid, text):
    path = write_pyramid("vendor.svs", GREY, aperio=f"|MPP = {text}")
    with pytest.raises(SlideError, match=r"vendor.svs records"):
        Slide(path)
    with Slide(path, default_mpp=0.3) as slide:
        assert slide.mpp == 0.3


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_impossible_override_is_refused(write_pyramid, value):
    path = write_pyramid("vendor.svs", GREY, aperio="|MPP = 0.5")
    for name in ("given_mpp", "default_mpp"):
        with pytest.raises(SlideError, match="was given"):
            Slide(path, **{name: value})


def test_oblong_pixels_have_two_resolutions(write_pyramid):
    with Slide(write_pyramid("oblong.tif", GREY, mpp=(0.5, 0.52), downsamples=(4,))) as slide:
        assert slide.mpps == pytest.approx((0.5, 0.52), abs=1e-4) and slide.mpp == slide.mpps[1]
        assert (slide.best_level(2.0), slide.best_level(1.9)) == (1, 0)
        with pytest.raises(SlideError, match=r"level 0 is 0\.52 µm/px, asked for 0\.48"):
            slide.check_resolves(0.48)
    with Slide(write_pyramid("nearly.tif", GREY, mpp=(0.5, 0.504))) as slide:
        assert slide.mpps == pytest.approx((0.502, 0.502), abs=1e-4)
    with pytest.raises(SlideError, match=r"pixels 0\.25 µm wide and 2\.5 µm high"):
        Slide(write_pyramid("absurd.tif", GREY, mpp=(0.25, 2.5)))


def test_thumbnails_of_oblong_slides_have_square_pixels(write_pyramid):
    with Slide(write_pyramid("oblong.tif", GREY, mpp=(2.0, 4.0))) as slide:
        whole, small = slide.thumbnail(8.0), slide.thumbnail(8.0, longest=64)
    assert whole.pixels.shape == (256, 192, 3) and whole.scale == (4.0, 2.0) and whole.mpp == pytest.approx(8.0)
    assert small.pixels.shape == (64, 48, 3)


def test_files_that_are_no_slides(tmp_path: Path, write_pyramid):
    empty = tmp_path / "empty.svs"
    empty.touch()
    text = tmp_path / "text.svs"
    text.write_text("not a slide")
    for path, remedy in ((empty, "empty"), (text, "whole-slide image")):
        with pytest.raises(SlideError, match="not a slide") as caught:
            Slide(path)
        assert remedy in caught.value.hint
    with pytest.raises(SlideError, match="No such file"):
        Slide(tmp_path / "absent.svs")
    with pytest.raises(SlideError, match="cannot be read"):
        Slide(tmp_path)


def test_truncated_slide_names_the_file_and_not_its_folder(tmp_path: Path, write_pyramid):
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    whole = write_pyramid("whole.tif", noise).read_bytes()
    path = tmp_path / "cut.tif"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SlideError, match=r"cut\.tif") as caught, Slide(path) as slide:
        slide.region((0, 0), (512, 512), (256, 256))
    assert str(tmp_path) not in caught.value.message and caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(write_pyramid):
    path = write_pyramid("closed.tif", GREY)
    path.chmod(0)
    with pytest.raises(SlideError, match="Permission denied"):
        Slide(path)


def test_huge_claims_are_refused_before_decoding(write_pyramid, monkeypatch):
    path = write_pyramid("large.tif", GREY)
    monkeypatch.setattr(reader, "_LONGEST_SIDE", 700)
    with pytest.raises(SlideError, match="claims 768 x 512"):
        Slide(path)
    monkeypatch.setattr(reader, "_LONGEST_SIDE", 768)
    monkeypatch.setattr(reader, "_LARGEST_TILE", 256 * 255)
    with pytest.raises(SlideError, match="tiles of up to 65536"):
        Slide(path)


def test_background_colour_of_the_slide():
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0] = (100, 100, 100, 255)
    mixed = reader._compose(rgba, reader._background({"openslide.background-color": "0A141E"}))
    assert (mixed[0] == 100).all() and (mixed[1] == (10, 20, 30)).all()


def test_a_mirax_slide_without_its_folder_says_so(tmp_path: Path):
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"\xff\xd8\xff\xd9")
    with pytest.raises(SlideError, match=r"the folder a beside it, which holds its pixels, is missing") as caught:
        Slide(path)
    assert "together with the whole folder" in caught.value.hint
    (tmp_path / "a").mkdir()
    with pytest.raises(SlideError, match=r"the folder a beside it, which holds its pixels, has no Slidedat\.ini"):
        Slide(path)


def test_the_reason_of_openslide_is_passed_on(tmp_path: Path):
    (tmp_path / "a.svs").write_bytes(b"no slide")
    with pytest.raises(
        SlideError, match=r"a\.svs is not a slide that OpenSlide recognises: Unsupported or missing image file"
    ):
        Slide(tmp_path / "a.svs")


def test_real_slides(real_data: Path):
    with Slide(real_data / "wsi" / "metaplasia_HE.svs") as slide:
        assert (slide.mpp, slide.size) == (0.2528, (13198, 11685))
        fine = slide.region((6000, 6000), (512, 512), (128, 128)).astype(float)
        reduced = slide.pixels(1, (6000, 6000), (128, 128)).astype(float)
    assert np.abs(fine - reduced).mean() < 12
    with pytest.raises(SlideError, match="no resolution"):
        Slide(real_data / "vendor" / "boxes.tiff")
    with Slide(real_data / "vendor" / "unreadable.svs") as slide, pytest.raises(SlideError, match="cannot be read"):
        slide.thumbnail()
    with pytest.raises(SlideError, match="BitsAllocated") as caught:
        Slide(real_data / "vendor" / "sm_image_grayscale.dcm")
    assert str(real_data) not in caught.value.message
