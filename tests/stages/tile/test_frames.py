"""Slides of which a part was scanned: annotations and contours have the origin of their programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from sgcl_cli.artefacts.patches import PatchFile
from sgcl_cli.config import TileConfig
from sgcl_cli.errors import ConfigError
from sgcl_cli.progress import Silent
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.stages.tile import tile

SAMPLE = Path(__file__).parents[3] / "sample_data" / "slides" / "sample_generic_050.tif"
WHOLE, CORNER, SIDE = (2500, 2200), (800, 350), 1024
SQUARE = [(0, 0), (512, 0), (512, 512), (0, 512)]

pytestmark = pytest.mark.usefixtures("inline")


class Listening(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """A Leica SCN file of 2500 x 2200 pixels at 0.5 µm, of which 1024 x 1024 at (800, 350) were scanned."""
    with Slide(SAMPLE) as sample:
        pixels = sample.pixels(0, (300, 300), (SIDE, SIDE))
    nm = 500
    description = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="c" sizeX="{WHOLE[0] * nm}" sizeY="{WHOLE[1] * nm}"><image name="i">'
        f'<creationDate>2020</creationDate><device model="M" version="1"/><pixels sizeX="{SIDE}" sizeY="{SIDE}">'
        f'<dimension sizeX="{SIDE}" sizeY="{SIDE}" r="0" ifd="0"/></pixels>'
        f'<view sizeX="{SIDE * nm}" sizeY="{SIDE * nm}" offsetX="{CORNER[0] * nm}" offsetY="{CORNER[1] * nm}" spacingX="" '
        'spacingY="" spacingZ=""/><scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>'
        "<illuminationSettings><numericalAperture>0.4</numericalAperture><illuminationSource>brightfield"
        "</illuminationSource></illuminationSettings></scanSettings></image></collection></scn>"
    )
    folder = tmp_path / "slides"
    folder.mkdir()
    with tifffile.TiffWriter(folder / "case.scn", bigtiff=True) as tiff:
        tiff.write(
            pixels,
            tile=(256, 256),
            photometric="rgb",
            compression="zlib",
            metadata=None,
            description=description,
            resolution=(1e4 / 0.5,) * 2,
            resolutionunit="CENTIMETER",
            subfiletype=0,
        )
    return folder / "case.scn"


def config(slide: Path, out: Path, **settings: Any) -> TileConfig:
    given = {"slides": [slide], "out": out, "workers": 1, "mpp": 0.5, "patch_size": 64, "coords_only": True}
    return TileConfig.resolve({**given, "min_tissue": 0.01, **settings})


def made(out: Path) -> PatchFile:
    return PatchFile.open(out / "patches" / "case.h5")


def geojson(folder: Path, points: list[tuple[float, float]]) -> Path:
    folder.mkdir(exist_ok=True)
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[*points, points[0]]]},
        "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
    }
    (folder / "case.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return folder


def asap(folder: Path, points: list[tuple[float, float]]) -> Path:
    folder.mkdir(exist_ok=True)
    corners = "".join(f'<Coordinate Order="{n}" X="{x}" Y="{y}" />' for n, (x, y) in enumerate(points))
    (folder / "case.xml").write_text(
        '<ASAP_Annotations><Annotations><Annotation Name="a" Type="Polygon" PartOfGroup="Tumor" Color="#F4FA58">'
        f"<Coordinates>{corners}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    )
    return folder


def lies_in(file: PatchFile, corner: tuple[int, int]) -> np.ndarray:
    """Which patches have at least half of themselves in the square of 512 at a corner."""
    overlap = np.minimum(file.coords + 64, np.add(corner, 512)) - np.maximum(file.coords, corner)
    return np.maximum(overlap, 0).prod(axis=1) >= 64 * 64 / 2


def test_an_annotation_from_qupath_lies_where_it_was_drawn(tmp_path, slide):
    marks, reporter = geojson(tmp_path / "marks", SQUARE), Listening()
    outcome = tile(config(slide, tmp_path / "out", annotations=str(marks)), reporter)
    file = made(tmp_path / "out")
    expected = lies_in(file, CORNER)
    assert expected.sum() > 30 and (~expected).sum() > 30 and ((file.label == 0) == expected).all()
    assert any("is the corner of the scanned part, as in QuPath: case" in note for note in reporter.notes)
    assert not reporter.warnings and file.source["bounds"] == [*CORNER, SIDE, SIDE]
    assert outcome.data["slides"][0]["bounds"] == f"{CORNER[0]} {CORNER[1]} {SIDE} {SIDE}"
    again = tile(config(slide, tmp_path / "out", annotations=str(marks)), Silent())
    assert again.data["skipped"] == 1 and again.data["slides"][0]["bounds"] == outcome.data["slides"][0]["bounds"]


def test_the_origin_can_be_said_and_belongs_to_the_settings(tmp_path, slide):
    marks, reporter = geojson(tmp_path / "marks", [(x + CORNER[0], y + CORNER[1]) for x, y in SQUARE]), Listening()
    given = {"annotations": str(marks), "annotations_origin": "slide"}
    tile(config(slide, tmp_path / "out", **given), reporter)
    file = made(tmp_path / "out")
    assert ((file.label == 0) == lies_in(file, CORNER)).all() and (file.label == 0).any()
    assert any("is the corner of the slide" in note for note in reporter.notes) and not reporter.warnings
    with pytest.raises(ConfigError, match="--annotations-origin was slide, is None"):
        tile(config(slide, tmp_path / "out", annotations=str(marks)), Silent())
    tile(config(slide, tmp_path / "other", annotations=str(marks)), reporter)
    assert any("case.geojson extends beyond the scanned part" in warning for warning in reporter.warnings)
    assert any("--annotations-origin slide" in warning for warning in reporter.warnings)


def test_the_origin_of_asap_is_the_slides_corner(tmp_path, slide):
    marks, reporter = asap(tmp_path / "marks", [(x + CORNER[0], y + CORNER[1]) for x, y in SQUARE]), Listening()
    tile(config(slide, tmp_path / "out", annotations=str(marks)), reporter)
    file = made(tmp_path / "out")
    assert ((file.label == 0) == lies_in(file, CORNER)).all() and (file.label == 0).any()
    assert any("is the corner of the slide, as in ASAP: case" in note for note in reporter.notes)


def test_a_mask_of_the_scanned_part_is_recognised_by_its_size(tmp_path, slide):
    marks = tmp_path / "marks"
    marks.mkdir()
    values = np.zeros((SIDE, SIDE), np.uint8)
    values[:512, :512] = 1
    Image.fromarray(values).save(marks / "case.png")
    given = {"annotations": str(marks), "mask_values": "1=Tumor"}
    with pytest.raises(Exception, match="case.png is 1024 x 1024 pixels, its slide 2500 x 2200") as caught:
        tile(config(slide, tmp_path / "out", **given), Silent())
    assert "--annotations-origin bounds" in caught.value.hint
    tile(config(slide, tmp_path / "out", **given, annotations_origin="bounds"), Silent())
    file = made(tmp_path / "out")
    assert ((file.label == 0) == lies_in(file, CORNER)).all() and (file.label == 0).any()


def test_contours_lie_where_qupath_shows_the_tissue_and_come_back(tmp_path, slide):
    tile(config(slide, tmp_path / "one"), Silent())
    contours = tmp_path / "one" / "contours"
    rings = [
        np.array(feature["geometry"]["coordinates"][0])
        for feature in json.loads((contours / "case.geojson").read_text())["features"]
    ]
    points = np.concatenate(rings)
    assert points.min() >= -32 and points.max() <= SIDE + 32 and np.ptp(points) > 900
    reporter = Listening()
    tile(config(slide, tmp_path / "two", roi=str(contours), roi_mode="replace"), reporter)
    one, two = made(tmp_path / "one"), made(tmp_path / "two")
    assert np.array_equal(one.coords, two.coords) and np.array_equal(one.tissue, two.tissue) and len(one) > 60
    assert (contours / "case.geojson").read_bytes() == (tmp_path / "two" / "contours" / "case.geojson").read_bytes()
    said = "--roi: the origin of coordinates on 1 slides with openslide.bounds-*"
    assert any(said in note for note in reporter.notes) and not reporter.warnings


def test_the_origin_of_a_region_of_interest_can_be_the_slides_corner(tmp_path, slide):
    regions = geojson(tmp_path / "roi", [(x + CORNER[0], y + CORNER[1]) for x, y in SQUARE])
    tile(config(slide, tmp_path / "out", roi=str(regions), roi_mode="replace", roi_origin="slide"), Silent())
    file = made(tmp_path / "out")
    assert len(file) >= 64 and (file.coords + 64 > CORNER).all() and (file.coords < np.add(CORNER, 512)).all()
    with pytest.raises(ConfigError, match="--roi-origin needs --roi"):
        config(slide, tmp_path / "out", roi_origin="slide")
