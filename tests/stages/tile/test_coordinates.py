"""Patches that CLAM, TRIDENT or an earlier run have chosen (``--from-coords``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import openslide
import pytest
import simplejpeg
import tifffile

from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.errors import ConfigError, SlideError
from sgcl_cli.progress import Silent
from sgcl_cli.stages.tile import tile
from tests.stages.tile.peers import SIDE, agree, clam_patches, config, trident_patches, write_slide


def test_coordinates_in_pixels_of_a_level_that_is_no_copy_are_refused(tmp_path, inline):
    pixels = np.random.default_rng(0).integers(0, 256, (600, 1000, 3), np.uint8)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for level in (pixels, np.pad(pixels[::2, ::2], ((0, 212), (0, 12), (0, 0)))):
            tags = {"resolution": (5000, 5000), "resolutionunit": "CENTIMETER", "subfiletype": int(level is not pixels)}
            tiff.write(level, tile=(256, 256), photometric="rgb", metadata=None, **tags)
    (tmp_path / "clam").mkdir()
    with h5py.File(tmp_path / "clam" / "a.h5", "w") as file:
        data = file.create_dataset("coords", data=np.array([[0, 0]]))
        data.attrs["patch_size"], data.attrs["patch_level"] = 64, 1
    with pytest.raises(
        SlideError, match=r"level 1 of a\.tif, which is not a reduced copy of level 0: 512 x 512 pixels"
    ) as caught:
        tile(config(tmp_path / "out", path, from_coords=str(tmp_path / "clam")), Silent())
    assert caught.value.hint == "choose the patches at another level"


def write_coords(path: Path, corners: Any, **attributes: Any) -> Path:
    """As both peers write them: one row a chunk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_dataset("coords", data=np.asarray(corners), maxshape=(None, 2), chunks=(1, 2))
        data.attrs.update(attributes)
    return path


def write_clam(folder: Path, slide: Path, corners: Any, level: int = 0, size: int = 64) -> Path:
    with openslide.OpenSlide(slide) as source:
        attributes = {
            "patch_size": size,
            "patch_level": level,
            "downsample": (source.level_downsamples[level],) * 2,
            "downsampled_level_dim": source.level_dimensions[level],
            "level_dim": source.level_dimensions[level],
            "name": slide.stem,
            "save_path": str(folder),
        }
    return write_coords(folder / "patches" / f"{slide.stem}.h5", corners, **attributes)


def write_trident(folder: Path, slide: Path, corners: Any, magnifications: tuple[int, int] = (20, 10)) -> Path:
    attributes = {
        "patch_size": 64,
        "patch_size_level0": 64 * magnifications[0] // magnifications[1],
        "level0_magnification": magnifications[0],
        "target_magnification": magnifications[1],
        "overlap": 0,
        "name": slide.stem,
        "savetodir": str(folder),
        "level0_width": SIDE,
        "level0_height": SIDE,
    }
    return write_coords(
        folder / f"{magnifications[1]}x_64px_0px_overlap" / "patches" / f"{slide.stem}_patches.h5",
        corners,
        **attributes,
    )


SCATTERED = [(700, 33), (0, 0), (129, 512), (768, 768), (130, 513)]


@pytest.mark.parametrize("level", [0, 1])
def test_just_the_patches_of_clam_are_read(tmp_path, inline, level):
    slide = write_slide(tmp_path / "in" / "s.tif")
    write_clam(tmp_path / "clam", slide, SCATTERED, level)
    outcome = tile(config(tmp_path / "out", slide, mpp=2.0 * 4**level, from_coords=tmp_path / "clam"), Silent())
    assert not outcome.failures and outcome.data["patches"] == 5
    index = PatchIndex.open(tmp_path / "out", pixels=True)
    assert index.coords.tolist() == [list(corner) for corner in SCATTERED]
    assert (index.grid == -1).all() and np.isnan(index.files[0].tissue).all()
    agree(index, clam_patches(tmp_path / "clam", slide))
    agree(index, clam_patches(tmp_path / "out", slide))
    assert not (tmp_path / "out" / "contours").exists() and (tmp_path / "out" / "overlays" / "s.jpg").exists()
    row = outcome.data["slides"][0]
    assert row["tissue_mm2"] is None and row["reason"] == "" and row["level"] == level


def test_just_the_patches_of_trident_are_read_at_its_field_of_view(tmp_path, inline):
    """Nominal magnifications: 20 stands for 0.5, the slide has 0.51, so patches at 10 have 1.02."""
    slide = write_slide(tmp_path / "in" / "s.tif", mpp=0.51)
    write_trident(tmp_path / "job", slide, SCATTERED)
    settings = {"mpp": 1.0, "from_coords": tmp_path / "job", "layout": "trident"}
    tile(config(tmp_path / "out", slide, **settings), Silent())
    index = PatchIndex.open(tmp_path / "out", pixels=True)
    made = index.files[0].geometry
    assert made["patch_size_level0"] == pytest.approx(128) and made["mpp_actual"] == pytest.approx(1.02)
    assert made["mpp_target"] == 1.0 and not {"overlap", "stride", "stride0"} & set(made)
    agree(index, trident_patches(tmp_path / "job" / "10x_64px_0px_overlap", slide))
    assert tile(config(tmp_path / "out", slide, **settings), Silent()).data["skipped"] == 1
    write_trident(tmp_path / "job", slide, SCATTERED[1:])
    with pytest.raises(ConfigError, match="--from-coords: s_patches.h5 has changed"):
        tile(config(tmp_path / "out", slide, **settings), Silent())
    with pytest.raises(ConfigError, match="--from-coords had s_patches.h5, has no file for this slide"):
        tile(config(tmp_path / "out", slide, mpp=1.0, layout="trident"), Silent())


def test_another_field_of_view_is_refused_with_the_right_settings(tmp_path, inline):
    slide = write_slide(tmp_path / "in" / "s.tif", mpp=0.51)
    write_trident(tmp_path / "job", slide, SCATTERED)
    with pytest.raises(
        SlideError, match="128 level-0 pixels wide, which are 65.28 µm; 64 pixels at 0.5 µm/px are 32"
    ) as e:
        tile(config(tmp_path / "out", slide, mpp=0.5, from_coords=tmp_path / "job"), Silent())
    assert e.value.hint == "use --patch-size 64 --mpp 1.02"
    outcome = tile(config(tmp_path / "out", slide, mpp=0.51, patch_size=128, from_coords=tmp_path / "job"), Silent())
    assert outcome.data["patches"] == 5


def test_patches_of_mixed_scanners_are_resampled_each_from_its_own_field_of_view(tmp_path, inline):
    """128 level-0 pixels at 0.5 and at 0.545 µm/px: 64 pixels at 0.5 * 2 and, by 9 %, at 1.09; 12 % are too many."""
    slides = [
        write_slide(tmp_path / "in" / f"{name}.tif", mpp) for name, mpp in (("a", 0.5), ("b", 0.545), ("c", 0.56))
    ]
    for slide in slides:
        write_clam(tmp_path / "clam", slide, SCATTERED, size=128)
    outcome = tile(config(tmp_path / "out", *slides, mpp=1.0, from_coords=tmp_path / "clam"), Silent())
    assert {row["slide_id"]: row["mpp_actual"] for row in outcome.data["slides"]} == pytest.approx(
        {"a": 1.0, "b": 1.09}
    )
    assert outcome.warnings == ["b.tif: the patches of its coordinate file are at 1.09 µm/px, not at 1"]
    (failure,) = outcome.failures
    assert failure.slide_id == "c" and "128 level-0 pixels wide, which are 71.68 µm" in failure.reason
    index = PatchIndex.open(tmp_path / "out", pixels=True)
    assert [file.sides.tolist() for file in index.files] == [[128, 128]] * 2
    for number, slide in enumerate(slides[:2]):
        theirs = clam_patches(tmp_path / "clam", slide)
        resized = [cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA) for _, pixels in theirs]
        for row, pixels in enumerate(resized):
            ours = simplejpeg.decode_jpeg(index.files[number].read(row)).astype(float)
            assert np.abs(ours - pixels).mean() < 3


def test_the_pixels_of_a_coarse_scanner_are_taken_as_they_are(tmp_path, inline):
    """Level-0 patches of a slide 9 % coarser than asked for: nothing is enlarged, so there is nothing to refuse."""
    slide = write_slide(tmp_path / "in" / "s.tif", 0.545)
    write_clam(tmp_path / "clam", slide, SCATTERED)
    settings = {"mpp": 0.5, "from_coords": tmp_path / "clam", "jpeg_quality": 100}
    tile(config(tmp_path / "out", slide, **settings), Silent())
    agree(PatchIndex.open(tmp_path / "out", pixels=True), clam_patches(tmp_path / "clam", slide))


def test_what_overhangs_is_counted_and_what_lies_outside_is_refused(tmp_path, inline):
    slide = write_slide(tmp_path / "in" / "s.tif")
    write_clam(tmp_path / "clam", slide, [*SCATTERED, (SIDE - 63, 0), (0, SIDE - 1)])
    settings = {"from_coords": tmp_path / "clam"}
    outcome = tile(config(tmp_path / "out", slide, **settings), Silent())
    assert outcome.data["patches"] == 5 and outcome.data["slides"][0]["overhanging"] == 2
    assert outcome.warnings == ["s.tif: 2 patches of its coordinate file extend beyond its edge and are left out"]
    write_clam(tmp_path / "clam", slide, [(SIDE - 63, 0)])
    with pytest.raises(SlideError, match="all patches of its coordinate file extend beyond its edge"):
        tile(config(tmp_path / "none", slide, **settings), Silent())
    write_clam(tmp_path / "clam", slide, [*SCATTERED, (SIDE, 0)])
    with pytest.raises(SlideError, match="1 of 6 patches of s.h5 lie outside s.tif"):
        tile(config(tmp_path / "outside", slide, **settings), Silent())


def test_files_of_other_slides_are_told(tmp_path, inline):
    slide = write_slide(tmp_path / "in" / "s.tif")
    settings = {"from_coords": tmp_path / "clam"}
    path = write_clam(tmp_path / "clam", slide, SCATTERED)
    for name, value, message in (
        ("level_dim", (SIDE, SIDE + 1), "made for 1024 x 1025 pixels, s.tif has 1024 x 1024"),
        ("patch_level", 2, "level 2, s.tif has 2 levels"),
    ):
        with h5py.File(path, "r+") as file:
            before = file["coords"].attrs[name]
            file["coords"].attrs[name] = value
        with pytest.raises(SlideError, match=message):
            tile(config(tmp_path / "out", slide, **settings), Silent())
        with h5py.File(path, "r+") as file:
            file["coords"].attrs[name] = before


def test_a_missing_or_damaged_file_costs_its_slide_only(tmp_path, inline):
    slides = [write_slide(tmp_path / "in" / f"{name}.tif") for name in ("good", "bad", "none")]
    write_clam(tmp_path / "clam", slides[0], SCATTERED)
    write_coords(tmp_path / "clam" / "patches" / "stray.h5", SCATTERED)
    (tmp_path / "clam" / "patches" / "bad.h5").write_bytes(b"not HDF5")
    outcome = tile(config(tmp_path / "out", *slides, from_coords=tmp_path / "clam"), Silent())
    reasons = {failure.slide_id: failure.reason for failure in outcome.failures}
    assert reasons == {
        "bad": "bad.h5 cannot be opened as HDF5: damaged, cut off, or another format "
        "(Unable to synchronously open file (file signature not found))",
        "none": "there is no coordinate file for none in clam",
    }
    assert outcome.warnings[0] == "--from-coords: 1 files belong to no slide, the first is stray.h5"
    assert [row["slide_id"] for row in outcome.data["slides"]] == ["good"]


def test_patches_chosen_before_get_their_pixels_now_with_the_same_neighbours(tmp_path, inline):
    """Our own coordinates are a peer's file too; neighbours by distance are those of the lattice."""
    import torch

    from sgcl_cli.method import sets
    from sgcl_cli.method.positives import Neighbourhood

    slide = write_slide(tmp_path / "in" / "s.tif")
    tile(config(tmp_path / "coords", slide, overlap=32, coords_only=True, min_tissue=0.2), Silent())
    tile(config(tmp_path / "out", slide, from_coords=tmp_path / "coords"), Silent())
    laid, placed = PatchIndex.open(tmp_path / "coords"), PatchIndex.open(tmp_path / "out", pixels=True)
    assert laid.coords.tolist() == placed.coords.tolist() and len(laid) > 50
    assert (laid.grid >= 0).all() and (placed.grid == -1).all()
    every = torch.arange(len(laid))
    tables = [
        Neighbourhood(torch.from_numpy(index.slide_of), torch.from_numpy(index.cells), 2.0).of(every)
        for index in (laid, placed)
    ]
    assert torch.equal(*tables)
    assert int(sets.sizes(tables[0], every).max()) == 44


@pytest.mark.parametrize(
    "settings", [{"overlap": 8}, {"min_tissue": 0.1}, {"roi": "somewhere"}, {"roi_mode": "replace"}]
)
def test_settings_that_choose_patches_do_not_go_with_chosen_ones(tmp_path, settings):
    with pytest.raises(
        ConfigError, match=f"--{next(iter(settings)).replace('_', '-')} and --from-coords both select patches"
    ):
        config(tmp_path / "out", from_coords="coords", **settings)


def test_foreign_patches_take_labels_and_a_dry_run_counts_them(tmp_path, inline):
    slide = write_slide(tmp_path / "in" / "s.tif")
    write_clam(tmp_path / "clam", slide, SCATTERED)
    (tmp_path / "masks").mkdir()
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, :400] = 1
    cv2.imwrite(str(tmp_path / "masks" / "s.png"), mask)
    settings = {"from_coords": tmp_path / "clam", "annotations": tmp_path / "masks"}
    surveyed = tile(config(tmp_path / "out", slide, dry_run=True, **settings), Silent())
    assert surveyed.data["patches"] == 5 and not (tmp_path / "out").exists()
    tile(config(tmp_path / "out", slide, **settings), Silent())
    assert PatchIndex.open(tmp_path / "out").files[0].label.tolist() == [-1, 0, 0, -1, 0]
