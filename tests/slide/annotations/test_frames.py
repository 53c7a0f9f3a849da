from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.slide.annotations.frames import Frame, origin_of
from sgcl_cli.slide.annotations.outlines import Areas, Points, Raster, Region, class_shares
from sgcl_cli.slide.lattice import Geometry, Lattice
from sgcl_cli.slide.open.bounds import Bounds

SLIDE = (800, 700)
SCANNED = Bounds(150, 90, 300, 300)


def box(left: float, top: float, right: float, bottom: float) -> Region:
    return Region("a", np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float))


def frame(name: str, asked=None, bounds: Bounds | None = SCANNED) -> Frame:
    return Frame.of(Path(name), SLIDE, bounds, asked)


@pytest.mark.parametrize(
    ("name", "asked", "origin"),
    [
        ("a.geojson", None, "bounds"),
        ("a.JSON", None, "bounds"),
        ("a.xml", None, "slide"),
        ("a.csv", None, "slide"),
        ("a.png", None, "slide"),
        ("a.geojson", "slide", "slide"),
        ("a.xml", "bounds", "bounds"),
    ],
)
def test_each_kind_of_file_counts_as_its_program_does_unless_asked(name, asked, origin):
    assert origin_of(Path(name), asked) == origin
    found = frame(name, asked)
    assert found.corner == ((150, 90) if origin == "bounds" else (0, 0))
    assert found.size == ((300, 300) if origin == "bounds" else SLIDE)
    whole = frame(name, asked, bounds=None)
    assert whole.corner == (0, 0) and whole.size == SLIDE


def test_outlines_move_with_their_holes_and_those_off_the_slide_are_counted():
    holed = Region("a", box(0, 0, 100, 100).outline, (box(10, 10, 20, 20).outline,))
    placed, off = frame("a.geojson").placed(
        Areas((holed, box(650, 0, 660, 10), box(-160, 0, -150, 10)), (box(5, 5, 9, 9),))
    )
    assert off == 2 and isinstance(placed, Areas) and len(placed.regions) == len(placed.cut_out) == 1
    assert placed.regions[0].outline.min(axis=0).tolist() == [150, 90]
    assert placed.regions[0].holes[0].max(axis=0).tolist() == [170, 110]
    assert placed.cut_out[0].outline.min(axis=0).tolist() == [155, 95]


def test_points_off_the_slide_are_counted():
    points = Points(np.array([[0.0, 0], [-139, 80], [799, 699], [800, 10]]), np.arange(4.0), ("a", "b", "c", "d"))
    placed, off = frame("a.csv").placed(points)
    assert off == 2 and isinstance(placed, Points)
    assert placed.classes == ("a", "c") and placed.radii.tolist() == [0, 2]
    placed, off = frame("a.csv", "bounds").placed(points)
    assert off == 2 and isinstance(placed, Points) and placed.centres.tolist() == [[150, 90], [11, 170]]


def test_outlines_that_reach_beyond_the_scanned_part_make_its_corner_doubtful():
    found, path = frame("a.geojson"), Path("a.geojson")
    inside, beyond = [box(150, 90, 450, 390), box(150, 90, 577, 217)], [box(150, 90, 200, 100), box(400, 90, 579, 390)]
    assert found.doubt(path, inside, "--roi-origin") == "" and found.doubt(path, [], "--roi-origin") == ""
    assert "a.geojson extends beyond the scanned part" in found.doubt(path, beyond, "--roi-origin")
    assert "use --roi-origin slide" in found.doubt(path, [box(20, 90, 300, 300)], "--roi-origin")
    assert frame("a.geojson", "bounds").doubt(path, beyond, "--roi-origin") == ""
    assert frame("a.xml").doubt(path, beyond, "") == frame("a.geojson", bounds=None).doubt(path, beyond, "") == ""


def test_a_mask_of_the_scanned_part_counts_from_its_corner():
    geometry = Geometry(100, 0, 0.5, 0.5)
    corners = np.array([[0, 0], [100, 40], [150, 90], [200, 140], [400, 340], [450, 0]])
    lattice = Lattice(corners, np.zeros((6, 2), np.int32), np.ones(6, np.float32))
    values = np.zeros((30, 30), np.uint8)
    values[:10, :10] = 1
    part = Raster(values, (10.0, 10.0), {1: "a"}, (150.0, 90.0))
    whole = np.zeros((700, 800), np.uint8)
    whole[90:190, 150:250] = 1
    expected, _ = class_shares(Raster(whole, (1.0, 1.0), {1: "a"}), ["a"], lattice, geometry, SLIDE)
    found, covered = class_shares(part, ["a"], lattice, geometry, SLIDE)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_allclose(found[0], [0, 0.25, 1, 0.25, 0, 0], atol=2e-6)
    np.testing.assert_allclose(covered, found[0], atol=2e-6)
