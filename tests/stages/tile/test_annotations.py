from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from sgcl_cli.artefacts.patches import PatchFile, PatchIndex
from sgcl_cli.config import TileConfig
from sgcl_cli.errors import ConfigError, LabelError
from sgcl_cli.progress import Silent
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.stages.tile import tile

SAMPLES = Path(__file__).parents[3] / "sample_data"
SLIDES = ("sample_aperio_025.svs", "sample_generic_050.tif", "sample_pen_050.tif")
CLASSES = ("carcinoma", "fat", "lymphoid", "stroma")

pytestmark = pytest.mark.usefixtures("inline")


def config(out: Path, *slides: str, **settings: Any) -> TileConfig:
    given = {"slides": [SAMPLES / "slides" / name for name in slides or SLIDES], "out": out, "workers": 1}
    return TileConfig.resolve({**given, "mpp": 1.0, "patch_size": 64, "coords_only": True, **settings})


def square(left: Any, top: Any, right: float, bottom: float, name: str = "T") -> dict[str, Any]:
    corners = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [corners]},
        "properties": {"classification": {"name": name}},
    }


def write(folder: Path, slide: str, *features: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{Path(slide).stem}.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def painted(path: Path, size: tuple[int, int], reduction: int) -> np.ndarray:
    """Class numbers from 1 per reduced pixel, by Pillow's polygons; later features over earlier ones."""
    image = Image.new("L", (size[0] // reduction, size[1] // reduction))
    draw = ImageDraw.Draw(image)
    for feature in json.loads(path.read_text())["features"]:
        name = feature["properties"]["classification"]["name"]
        (outline, *holes) = feature["geometry"]["coordinates"]
        layer = Image.new("1", image.size)
        inside = ImageDraw.Draw(layer)
        inside.polygon([(x / reduction, y / reduction) for x, y in outline], fill=1)
        for hole in holes:
            inside.polygon([(x / reduction, y / reduction) for x, y in hole], fill=0)
        draw.bitmap((0, 0), layer, fill=CLASSES.index(name) + 1)
    return np.asarray(image)


def test_sample_annotations_become_the_labels_that_painting_them_gives(tmp_path):
    outcome = tile(config(tmp_path / "out", annotations=str(SAMPLES / "annotations")), Silent())
    index = PatchIndex.open(tmp_path / "out")
    counted = 0
    for made in index.files:
        assert made.label_names == CLASSES and made.label is not None and made.label_share is not None
        size = made.geometry["level0_width"], made.geometry["level0_height"]
        side, step = made.geometry["patch_size_level0"], 4
        picture = painted(SAMPLES / "annotations" / f"{made.slide_id}.geojson", size, step)
        for (x, y), label, share in zip(made.coords.tolist(), made.label, made.label_share, strict=True):
            patch = picture[round(y / step) : round((y + side) / step), round(x / step) : round((x + side) / step)]
            shares = np.bincount(patch.ravel(), minlength=5) / patch.size
            if label >= 0:
                assert shares[label + 1] == pytest.approx(share, abs=0.06)
                counted += share > 0.99
            else:
                assert shares[1:].max() < shares[0] + 0.12
    assert counted > 30
    totals = {name: sum(row["labels"].get(name, 0) for row in outcome.data["slides"]) for name in CLASSES}
    labels = np.concatenate([made.label for made in index.files])
    assert totals == {name: int((labels == number).sum()) for number, name in enumerate(CLASSES)}
    assert min(totals.values()) > 10
    assert any(name == "labels" and f"carcinoma {totals['carcinoma']}" in text for name, text in outcome.headline)


def test_every_file_has_the_same_names_and_slides_without_annotation_are_unknown(tmp_path):
    folder = tmp_path / "marks"
    write(folder, SLIDES[1], square(0, 0, 4000, 4000, "b"))
    write(folder, SLIDES[0], square(0, 0, 4000, 4000, "a"))
    write(folder, "stranger", square(0, 0, 10, 10, "c"))
    reporter = Silent()
    tile(config(tmp_path / "out", annotations=str(folder)), reporter)
    files = {made.slide_id: made for made in PatchIndex.open(tmp_path / "out").files}
    assert {made.label_names for made in files.values()} == {("a", "b")}
    values = {name: set(made.label.tolist()) for name, made in files.items()}
    assert values == {"sample_aperio_025": {0}, "sample_generic_050": {1}, "sample_pen_050": {-1}}
    assert any("1 of 3 slides have no file" in warning for warning in reporter.warnings)
    assert any("1 files belong to no slide, the first is stranger.geojson" in warning for warning in reporter.warnings)


def test_label_names_fix_the_order_and_leave_others_out(tmp_path):
    folder = tmp_path / "marks"
    write(folder, SLIDES[1], square(0, 0, 4000, 1000, "x, y"), square(0, 1000, 4000, 4000, "other"))
    reporter = Silent()
    names = {"annotations": str(folder), "label_names": 'none here,"x, y"'}
    tile(config(tmp_path / "out", SLIDES[1], **names), reporter)
    (made,) = PatchIndex.open(tmp_path / "out").files
    assert made.label_names == ("none here", "x, y") and set(made.label.tolist()) == {-1, 1}
    assert any("classes that are ignored: other" in warning for warning in reporter.warnings)
    assert any("classes that do not occur: none here" in warning for warning in reporter.warnings)
    with pytest.raises(LabelError, match="none of --label-names occurs .* found: other, x, y"):
        tile(config(tmp_path / "new", SLIDES[1], annotations=str(folder), label_names="X"), Silent())
    with pytest.raises(ConfigError, match="has a class twice"):
        tile(config(tmp_path / "new", SLIDES[1], annotations=str(folder), label_names="a,a"), Silent())


def test_what_changed_is_named_and_refused_on_a_rerun(tmp_path):
    folder = tmp_path / "marks"
    path = write(folder, SLIDES[1], square(0, 0, 4000, 4000))
    marked = {"annotations": str(folder)}
    tile(config(tmp_path / "out", SLIDES[1], **marked), Silent())
    first = PatchFile.open(tmp_path / "out" / "patches" / "sample_generic_050.h5")
    assert tile(config(tmp_path / "out", SLIDES[1], **marked), Silent()).data["skipped"] == 1
    path.rename(folder / "kept")
    write(folder, SLIDES[1], square(0, 0, 4000, 3999))

    def refused(**settings: Any) -> str:
        with pytest.raises(ConfigError, match="was made under other settings") as caught:
            tile(config(tmp_path / "out", **settings), Silent())
        assert "--overwrite" in caught.value.hint
        return caught.value.message

    slides = {"slides": [SAMPLES / "slides" / SLIDES[1]]}
    assert "--annotations: sample_generic_050.geojson has changed" in refused(**slides, **marked)
    without = refused(**slides)
    assert "--annotations had sample_generic_050.geojson, has no file for this slide" in without
    assert "classes were T, are none" in without
    (folder / "kept").rename(path)
    assert "--label-rule was majority, is any" in refused(**slides, **marked, label_rule="any")
    write(folder, SLIDES[2], square(0, 0, 1, 1, "new"))
    both = {"slides": [SAMPLES / "slides" / name for name in SLIDES[1:]]}
    assert "classes were T, are T, new (--label-names fixes them)" in refused(**both, **marked)
    tile(config(tmp_path / "out", SLIDES[1], SLIDES[2], **marked, label_names="T"), Silent())
    write(folder, SLIDES[1], square(0, 0, 4000, 3999))
    tile(config(tmp_path / "out", SLIDES[1], **marked, label_names="T", overwrite=True), Silent())
    second = PatchFile.open(tmp_path / "out" / "patches" / "sample_generic_050.h5")
    assert second.id != first.id and second.label_names == ("T",)


def test_annotating_what_was_tiled_without_is_noticed(tmp_path):
    folder = tmp_path / "marks"
    write(folder, SLIDES[1], square(0, 0, 4000, 4000))
    tile(config(tmp_path / "out", SLIDES[1]), Silent())
    made = PatchFile.open(tmp_path / "out" / "patches" / "sample_generic_050.h5")
    assert made.label is None and made.label_names == ()
    with pytest.raises(ConfigError, match="--annotations had no file for this slide, has sample_generic_050.geojson"):
        tile(config(tmp_path / "out", SLIDES[1], annotations=str(folder)), Silent())


def test_annotations_of_no_use_stop_before_work_starts(tmp_path):
    folder = tmp_path / "marks"
    write(folder, SLIDES[1], square(0, 0, 10, 10)).write_text("{")
    with pytest.raises(LabelError, match="is not JSON"):
        tile(config(tmp_path / "out", annotations=str(folder)), Silent())
    write(folder, SLIDES[1])
    with pytest.raises(LabelError, match="no annotation in .* has a class"):
        tile(config(tmp_path / "out", annotations=str(folder)), Silent())
    with pytest.raises(ConfigError, match="--mask-mpp needs --annotations"):
        config(tmp_path / "out", mask_mpp=1.0)
    assert not (tmp_path / "out").exists()


def stray(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


@pytest.mark.parametrize(
    ("spoil", "reason", "hint"),
    [
        (stray("{"), "is not JSON", "export it again"),
        (stray(json.dumps(square("0", "0", 9, 9))), "has coordinates that are strings", "without quotes"),
        (lambda path: path.with_suffix(".xml").touch(), "--annotations has 2 files for it", "remove all but one"),
    ],
)
def test_a_stray_file_costs_its_slide_and_not_the_cohort(tmp_path, spoil, reason, hint):
    folder = tmp_path / "marks"
    write(folder, SLIDES[1], square(0, 0, 4000, 4000))
    path = write(folder, SLIDES[0], square(0, 0, 4000, 4000))
    good = path.read_bytes()
    tile(config(tmp_path / "out", *SLIDES[:2], annotations=str(folder)), Silent())
    made = (tmp_path / "out" / "patches" / "sample_aperio_025.h5").read_bytes()
    spoil(path)
    for out in ("new", "out"):
        outcome = tile(config(tmp_path / out, *SLIDES[:2], annotations=str(folder)), Silent())
        (failure,) = outcome.failures
        assert failure.slide_id == "sample_aperio_025" and reason in failure.reason and hint in failure.hint
        assert [row["labels"] for row in outcome.data["slides"]] == [{"T": outcome.data["patches"]}]
    assert (tmp_path / "out" / "patches" / "sample_aperio_025.h5").read_bytes() == made
    path.write_bytes(good)
    path.with_suffix(".xml").unlink(missing_ok=True)
    mended = tile(config(tmp_path / "out", *SLIDES[:2], annotations=str(folder)), Silent())
    assert mended.data["skipped"] == 2 and not mended.failures


def test_outlines_without_an_inside_and_points_off_the_slide_are_counted_and_passed_over(tmp_path):
    folder, spots = tmp_path / "marks", tmp_path / "spots"
    line = square(500, 500, 501, 500)
    write(folder, SLIDES[1], square(0, 0, 4000, 4000), line, square(-90, -90, -9, -9), square(9000, 0, 9100, 50))
    write(folder, SLIDES[0], square(0, 0, 4000, 4000))
    reporter = Silent()
    outcome = tile(config(tmp_path / "out", *SLIDES[:2], annotations=str(folder)), reporter)
    assert all(sum(row["labels"].values()) == row["patches"] > 20 for row in outcome.data["slides"])
    assert any(
        "objects that are ignored: 1 outlines that enclose nothing (first in sample_generic_050.geojson)" in warning
        for warning in reporter.warnings
    )
    off = "2 objects of sample_generic_050.geojson lie outside the slide and are ignored"
    assert any(off in warning for warning in reporter.warnings) and off in outcome.data["slides"][1]["remarks"]
    spots.mkdir()
    (spots / "sample_generic_050.csv").write_text("x,y,name,radius_px\n-139,800,b,100\n1000,600,a,100\n")
    reporter = Silent()
    outcome = tile(config(tmp_path / "points", SLIDES[1], annotations=str(spots)), reporter)
    assert outcome.data["slides"][0]["labels"] == {"a": 1}
    assert any("1 objects of sample_generic_050.csv lie outside the slide" in warning for warning in reporter.warnings)
    reporter = Silent()
    tile(config(tmp_path / "roi", *SLIDES[:2], roi=str(folder), roi_mode="replace"), reporter)
    assert any("--roi: objects that are ignored: 1 outlines" in warning for warning in reporter.warnings)
    assert any(off in warning for warning in reporter.warnings)


def test_classes_that_look_alike_are_warned_of_with_both_spellings(tmp_path):
    folder = tmp_path / "marks"
    write(folder, SLIDES[0], square(0, 0, 4000, 4000, "Tumor"), square(0, 0, 9, 9, "Stroma "))
    write(folder, SLIDES[1], square(0, 0, 4000, 4000, "tumor"), square(0, 0, 9, 9, "Stroma"))
    reporter = Silent()
    tile(config(tmp_path / "out", *SLIDES[:2], annotations=str(folder)), reporter)
    assert {made.label_names for made in PatchIndex.open(tmp_path / "out").files} == {("Stroma", "Tumor", "tumor")}
    said = "\n".join(reporter.warnings)
    assert "are different classes: 'Tumor' (sample_aperio_025.geojson) and 'tumor' (sample_generic_050.geojson)" in said
    assert "treated as one: 'Stroma' (sample_generic_050.geojson) and 'Stroma ' (sample_aperio_025.geojson)" in said


def test_a_file_taken_by_the_beginning_of_its_name_is_named_with_its_slide(tmp_path):
    folder = tmp_path / "marks"
    write(folder, SLIDES[1], square(0, 0, 4000, 4000)).rename(folder / "sample_generic_050.1.geojson")
    reporter = Silent()
    tile(config(tmp_path / "out", SLIDES[1], annotations=str(folder)), reporter)
    said = "files that match only by the beginning of their names: sample_generic_050.1.geojson for slide sample_generic_050"
    assert any(said in warning for warning in reporter.warnings)
    (folder / "sample_generic_050.1.geojson").rename(folder / "sample_generic_050.marks.geojson")
    write(folder, SLIDES[0], square(0, 0, 9, 9)).rename(folder / "sample_aperio_025.marks.geojson")
    reporter = Silent()
    tile(config(tmp_path / "all", *SLIDES[:2], annotations=str(folder)), reporter)
    assert not any("beginning of their names" in warning for warning in reporter.warnings)


def test_masks_and_their_size(tmp_path):
    folder = tmp_path / "marks"
    folder.mkdir()
    with Slide(SAMPLES / "slides" / SLIDES[1]) as slide:
        width, height = slide.size
    values = np.full((height, width), 1, np.uint8)
    values[:, : width // 2] = 255
    Image.fromarray(values).save(folder / "sample_generic_050.mask.png")
    mask = {"annotations": str(folder), "mask_values": "255=tumour,1=other"}
    tile(config(tmp_path / "full", SLIDES[1], **mask), Silent())
    Image.fromarray(cv2.resize(values, (width // 8, height // 8), interpolation=cv2.INTER_NEAREST)).save(
        folder / "sample_generic_050.mask.png"
    )
    tile(config(tmp_path / "small", SLIDES[1], **mask, mask_mpp=4.0), Silent())
    full, small = (PatchIndex.open(tmp_path / name).files[0] for name in ("full", "small"))
    assert full.label_names == ("other", "tumour")
    left = full.coords[:, 0] + 64 < width / 2
    assert left.any() and (~left).any()
    assert (full.label == left).all() and (small.label == full.label).all()
    (failure,) = tile(config(tmp_path / "wrong", SLIDES[1], SLIDES[2], **mask), Silent()).failures
    assert failure.slide_id == "sample_generic_050" and "--mask-mpp" in failure.hint


def coords(out: Path, slide: str) -> np.ndarray:
    return PatchFile.open(out / "patches" / f"{Path(slide).stem}.h5").coords


def test_written_contours_passed_back_give_the_same_patches(tmp_path):
    tile(config(tmp_path / "one"), Silent())
    contours = tmp_path / "one" / "contours"
    tile(config(tmp_path / "two", roi=str(contours), roi_mode="replace"), Silent())
    for slide in SLIDES:
        one, two = (PatchFile.open(tmp_path / name / "patches" / f"{Path(slide).stem}.h5") for name in ("one", "two"))
        assert np.array_equal(one.coords, two.coords) and np.array_equal(one.tissue, two.tissue) and len(one) > 20
        name = f"{Path(slide).stem}.geojson"
        assert (contours / name).read_bytes() == (tmp_path / "two" / "contours" / name).read_bytes()


def test_an_edited_contours_file_decides_and_stays_as_it_is(tmp_path):
    slide = SLIDES[1]
    tile(config(tmp_path / "out", slide), Silent())
    whole = coords(tmp_path / "out", slide)
    path = tmp_path / "out" / "contours" / "sample_generic_050.geojson"
    content = json.loads(path.read_text())
    content["features"] = [square(700, 300, 1212, 812, "Tissue")]
    path.write_text(json.dumps(content))
    edited = path.read_bytes()
    again = {"roi": str(path.parent), "roi_mode": "replace"}
    with pytest.raises(ConfigError, match="--roi-mode was restrict, is replace; --roi had no file for this slide"):
        tile(config(tmp_path / "out", slide, **again), Silent())
    tile(config(tmp_path / "out", slide, **again, overwrite=True), Silent())
    assert path.read_bytes() == edited
    kept = coords(tmp_path / "out", slide)
    inside = ((kept + 64 > (700, 300)) & (kept + 64 < (1212, 812))).all(axis=1)
    assert 9 <= len(kept) <= 25 < len(whole) and inside.all()
    both = (slide, SLIDES[0])
    assert tile(config(tmp_path / "out", *both, **again), Silent()).data["skipped"] == 1
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert tile(config(tmp_path / "out", *both, **again), Silent()).data["skipped"] == 2


def test_a_region_of_interest_restricts_tissue_and_its_holes_do_too(tmp_path):
    folder = tmp_path / "roi"
    tile(config(tmp_path / "all", SLIDES[1]), Silent())
    everywhere = {tuple(corner) for corner in coords(tmp_path / "all", SLIDES[1]).tolist()}
    left = square(0, 0, 1280, 5000)
    left["geometry"]["coordinates"].append([[900, 500], [1156, 500], [1156, 756], [900, 756]])
    path = write(folder, SLIDES[1], left)
    reporter = Silent()
    tile(config(tmp_path / "part", SLIDES[1], SLIDES[2], roi=str(folder)), reporter)
    part = {tuple(corner) for corner in coords(tmp_path / "part", SLIDES[1]).tolist()}
    assert part < everywhere and max(x for x, _ in part) <= 1280 - 64
    assert not [
        corner for corner in part if 836 < corner[0] + 64 < 1220 and 564 <= corner[1] + 64 <= 692 and corner[0] == 960
    ]
    assert any(
        "1 of 2 slides have no file, their tissue is detected as usual" in warning for warning in reporter.warnings
    )
    write(folder, SLIDES[1]).touch()
    outcome = tile(config(tmp_path / "none", SLIDES[1], SLIDES[2], roi=str(folder)), Silent())
    assert outcome.data["slides"][0]["reason"] == "no tissue in the region of interest"
    path.write_text("[]")
    outcome = tile(config(tmp_path / "void", SLIDES[1], SLIDES[2], roi=str(folder), roi_mode="replace"), Silent())
    assert outcome.data["slides"][0]["reason"] == "the region of interest is empty"
    path.write_text("{}")
    with pytest.raises(LabelError, match="is not GeoJSON"):
        tile(config(tmp_path / "bad", SLIDES[1], roi=str(folder)), Silent())


@pytest.mark.slow
def test_real_spots_and_masks(tmp_path, real_data):
    folder = real_data / "labelled"
    slides = {"slides": sorted(folder.glob("her2st_*.tif")), "mpp": 0.69, "patch_size": 224, "annotations": str(folder)}
    tile(config(tmp_path / "spots", **slides), Silent())
    for made in PatchIndex.open(tmp_path / "spots").files:
        assert "unknown" not in made.label_names and len(made.label_names) == 11 and (made.label >= 0).sum() > 80
    slides = {"slides": sorted(folder.glob("bcss_*.tif")), "mpp": 0.5, "patch_size": 256, "slide_mpp": 0.25}
    masks = {"annotations": str(folder), "mask_values": "255=tumour,0=other"}
    tile(config(tmp_path / "masks", **slides, **masks), Silent())
    for made in PatchIndex.open(tmp_path / "masks").files:
        values = np.asarray(Image.open(folder / f"{made.slide_id}.tumour_mask.png")) == 255
        for (x, y), label, share in zip(made.coords, made.label, made.label_share, strict=True):
            tumour = values[y : y + 512, x : x + 512].mean()
            assert label == int(tumour > 0.5) and share == pytest.approx(max(tumour, 1 - tumour), abs=1e-5)
