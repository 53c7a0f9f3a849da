from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import polygon2mask

from sgcl_cli.slide.annotations import outlines as annotations
from sgcl_cli.slide.annotations.outlines import (
    Areas,
    Points,
    Raster,
    Region,
    Window,
    class_shares,
    coverage,
    label_patches,
    region_mask,
    ring_coverage,
)
from sgcl_cli.slide.lattice import Geometry, Lattice, lay
from sgcl_cli.slide.overlay import outlines

SIZE = (600, 400)
GEOMETRY = Geometry(100, 0, 0.5, 0.5)


def ring(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, float)


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return ring((left, top), (right, top), (right, bottom), (left, bottom))


def everywhere(geometry: Geometry = GEOMETRY, size: tuple[int, int] = SIZE) -> Lattice:
    return lay(np.ones((8, 12), bool), size, geometry, 0)


def labels_at(found: annotations.Labels, lattice: Lattice) -> dict[tuple[int, int], int]:
    return {(int(c), int(r)): int(v) for (c, r), v in zip(lattice.grid, found.label, strict=True) if v >= 0}


def test_area_within_cells_is_exact():
    expected = [[0.5, 0, 0], [1, 0.5, 0]]
    np.testing.assert_allclose(ring_coverage(ring((0, 0), (2, 2), (0, 2)), (2, 3)), expected, atol=1e-7)
    np.testing.assert_allclose(
        ring_coverage(box(0.25, 0.5, 2.5, 1), (2, 3)), [[0.375, 0.5, 0.25], [0, 0, 0]], atol=1e-7
    )
    tiny = ring_coverage(box(1.4, 0.3, 1.401, 0.301), (2, 3))
    assert tiny[0, 1] == pytest.approx(1e-6, rel=1e-3) and tiny.sum() == pytest.approx(1e-6, rel=1e-3)


def test_direction_closing_and_what_lies_outside_do_not_matter():
    shape = ring((-3, -2), (1.5, -4), (5, 1.2), (1.3, 7))
    once = ring_coverage(shape, (3, 4))
    assert 0 < once.sum() < 12
    np.testing.assert_allclose(ring_coverage(shape[::-1], (3, 4)), once, atol=1e-6)
    np.testing.assert_allclose(ring_coverage(np.vstack([shape, shape[:1]]), (3, 4)), once, atol=1e-6)
    assert (ring_coverage(box(-1e6, -1e6, 1e6, 1e6), (3, 4)) == 1).all()
    assert (ring_coverage(box(10, 0, 12, 3), (3, 4)) == 0).all()


def test_a_figure_of_eight_is_inside_on_both_sides():
    eight = ring((0, 0), (4, 2), (4, 0), (0, 2))
    assert ring_coverage(eight, (2, 4)).sum() == pytest.approx(4, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 11), st.floats(-3, 9)), min_size=3, max_size=3))
def test_triangles_agree_with_counting_points(points):
    shape = ring(*points)
    fine = 32
    counted = polygon2mask((6 * fine, 8 * fine), shape[:, ::-1] * fine - 0.5)
    counted = counted.reshape(6, fine, 8, fine).mean(axis=(1, 3))
    assert np.abs(ring_coverage(shape, (6, 8)) - counted).max() < 3 / fine


def test_holes_are_left_out_and_neighbours_add_up_without_a_seam():
    window = Window(0, 4, 6, (100.0, 100.0))
    holed = Region("a", box(0, 0, 400, 400), (box(100, 100, 300, 250),))
    covered = coverage([holed], window)
    np.testing.assert_allclose(covered[:, 1], [1, 0, 0.5, 1], atol=1e-6)
    halves = [Region("a", ring((0, 0), (400, 0), (0, 400))), Region("a", ring((400, 0), (400, 400), (0, 400)))]
    np.testing.assert_allclose(coverage(halves, window)[:, :4], 1, atol=1e-6)
    twice = coverage([halves[0], halves[0]], window)
    assert twice.max() == 1 and twice[0, 0] == 1 and twice[3, 3] == 0


def test_shares_are_areas_of_boxes_whatever_the_bands(monkeypatch):
    lattice = everywhere(Geometry(100, 30, 0.5, 0.5))
    areas = Areas((Region("b", box(37, 51, 412, 233)), Region("a", ring((300, 100), (590, 390), (300, 390)))))
    whole, covered = class_shares(areas, ["a", "b", "c"], lattice, Geometry(100, 30, 0.5, 0.5), SIZE)
    for (x, y), b in zip(lattice.coords, whole[1], strict=True):
        across = max(0, min(x + 100, 412) - max(x, 37))
        down = max(0, min(y + 100, 233) - max(y, 51))
        assert b == pytest.approx(across * down / 1e4, abs=2e-6)
    assert (whole[2] == 0).all() and (covered <= whole.sum(axis=0) + 1e-6).all()
    assert (covered < whole.sum(axis=0) - 0.01).any()
    monkeypatch.setattr(annotations, "_BAND", 1)
    banded, banded_covered = class_shares(areas, ["a", "b", "c"], lattice, Geometry(100, 30, 0.5, 0.5), SIZE)
    np.testing.assert_allclose(banded, whole, atol=2e-6)
    np.testing.assert_allclose(banded_covered, covered, atol=2e-6)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("majority", {(0, 0): 0, (1, 0): 1, (2, 0): 0}),
        ("any", {(0, 0): 0, (1, 0): 1, (2, 0): 0, (3, 0): 1, (4, 0): 0}),
        ("pure", {(0, 0): 0}),
    ],
)
def test_rules(rule, expected):
    lattice = everywhere()
    areas = Areas(
        (
            Region("tumour", box(0, 0, 140, 100)),
            Region("stroma", box(140, 0, 200, 100)),
            Region("tumour", box(200, 0, 250, 100)),
            Region("stroma", box(300, 0, 330, 100)),
            Region("tumour", box(330, 0, 359, 100)),
            Region("tumour", box(400, 0, 401, 1)),
        )
    )
    found = label_patches(areas, ["tumour", "stroma"], rule, lattice, GEOMETRY, size=SIZE)
    assert labels_at(found, lattice) == expected
    assert found.label.dtype == np.int16 and found.share.dtype == np.float32
    assert found.share[0] == pytest.approx(1) and ((found.label < 0) == (found.share == 0)).all()
    if rule != "pure":
        assert found.share[1] == pytest.approx(0.6, abs=1e-5)


def test_equal_shares_go_to_the_class_named_first_and_others_do_not_count():
    lattice = everywhere()
    areas = Areas(
        (Region("a", box(0, 0, 100, 100)), Region("b", box(0, 0, 100, 100)), Region("c", box(100, 0, 200, 100)))
    )
    for names in (["a", "b"], ["b", "a"]):
        assert labels_at(label_patches(areas, names, "majority", lattice, GEOMETRY, size=SIZE), lattice) == {(0, 0): 0}
        assert labels_at(label_patches(areas, names, "pure", lattice, GEOMETRY, size=SIZE), lattice) == {}


def test_cut_outs_belong_to_no_class():
    lattice = everywhere()
    areas = Areas((Region("t", box(0, 0, 200, 100)),), (Region("", box(100, 0, 160, 100)),))
    assert labels_at(label_patches(areas, ["t"], "majority", lattice, GEOMETRY, size=SIZE), lattice) == {(0, 0): 0}
    shares, _ = class_shares(areas, ["t"], lattice, GEOMETRY, size=SIZE)
    assert shares[0, 1] == pytest.approx(0.4, abs=1e-5)


def test_points_label_the_patches_that_hold_their_centres():
    lattice = everywhere()
    spots = Points(
        np.array([[50.0, 50], [190, 50], [430, 50], [470, 50], [450, 80]]), np.full(5, 15.0), ("a", "a", "a", "b", "b")
    )
    found = label_patches(spots, ["a", "b"], "majority", lattice, GEOMETRY, size=SIZE)
    assert labels_at(found, lattice) == {(0, 0): 0, (1, 0): 0, (4, 0): 1}
    assert found.share[0] == pytest.approx(np.pi * 225 / 1e4, abs=1e-5)
    pure = label_patches(spots, ["a", "b"], "pure", lattice, GEOMETRY, size=SIZE)
    assert labels_at(pure, lattice) == {(0, 0): 0, (1, 0): 0}
    touched = label_patches(spots, ["a", "b"], "any", lattice, GEOMETRY, size=SIZE)
    assert labels_at(touched, lattice) == {(0, 0): 0, (1, 0): 0, (2, 0): 0, (4, 0): 1}


def test_masks_at_any_scale_agree_with_counting_pixels():
    random = np.random.default_rng(0)
    values = random.integers(0, 4, (40, 60)).astype(np.uint8)
    full = values.repeat(10, axis=0).repeat(10, axis=1)
    lattice = everywhere()
    classes = {1: "a", 3: "b", 2: "a"}
    for raster in (Raster(values, (10.0, 10.0), classes), Raster(full, (1.0, 1.0), classes)):
        shares, covered = class_shares(raster, ["a", "b"], lattice, GEOMETRY, size=SIZE)
        for (x, y), a, b, any_ in zip(lattice.coords, *shares, covered, strict=True):
            patch = full[y : y + 100, x : x + 100]
            assert a == pytest.approx(np.isin(patch, [1, 2]).mean(), abs=2e-6)
            assert b == pytest.approx((patch == 3).mean(), abs=2e-6)
            assert any_ == pytest.approx((patch > 0).mean(), abs=2e-6)
    small = Raster(np.ones((4, 4), np.uint8), (25.0, 25.0), {1: "a"})
    assert labels_at(label_patches(small, ["a"], "any", lattice, GEOMETRY, size=SIZE), lattice) == {(0, 0): 0}


def test_without_an_annotation_all_is_unknown():
    lattice = everywhere()
    found = label_patches(None, ["a"], "any", lattice, GEOMETRY, size=SIZE)
    assert (found.label == -1).all() and (found.share == 0).all() and len(found.label) == len(lattice)
    nothing = Lattice(np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int32), np.zeros(0, np.float32))
    assert len(label_patches(Areas(()), ["a"], "any", nothing, GEOMETRY, size=SIZE).label) == 0


def test_region_mask_takes_pixels_that_are_covered_by_a_third():
    mask = region_mask([Region("", box(0, 0, 25, 13.4), (box(0, 0, 10, 6.8),))], (4, 5), (10.0, 10.0))
    expected = np.zeros((4, 5), bool)
    expected[0, 1:3], expected[1, :2] = True, True
    assert (mask == expected).all()


def test_masks_come_back_from_their_outlines():
    random = np.random.default_rng(3)
    noise = cv2.GaussianBlur(random.normal(size=(90, 120)), (0, 0), 3)
    mask = cv2.morphologyEx((noise > -0.05).astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8)).astype(bool)
    scale = 33.1, 32.9
    polygons = [feature["geometry"]["coordinates"] for feature in outlines(mask, scale)["features"]]
    regions = [Region("", np.array(rings[0]), tuple(map(np.array, rings[1:]))) for rings in polygons]
    assert sum(map(len, polygons)) > len(polygons) > 3
    assert (region_mask(regions, mask.shape, scale) == mask).all()
