from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_type_hints

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from sgcl_cli.config import TileConfig
from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.slide.read import overview
from sgcl_cli.slide.tissue.structure import FinerLook, structured
from sgcl_cli.slide.tissue.tissue import MAX_HOLE, MIN_AREA, Choice, Ink, Segmentation, segment

MPP = 8.0
SIDE = 256


def glass(colour: tuple[int, int, int] = (240, 240, 240)) -> NDArray[np.float64]:
    noise = np.random.default_rng(0).normal(0, 0.5, (SIDE, SIDE, 1))
    return np.array(colour, float) + noise


def disc(x: float = 128, y: float = 128, radius: float = 60) -> NDArray[np.bool_]:
    rows, columns = np.indices((SIDE, SIDE))
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def with_tissue(
    image: NDArray[np.float64], where: NDArray[np.bool_], density: tuple[float, float, float] = (0.45, 0.8, 0.35)
) -> NDArray[np.float64]:
    texture = cv2.GaussianBlur(np.random.default_rng(1).normal(0, 1, (SIDE, SIDE)), (0, 0), 1.0)
    strength = np.clip(1 + texture[..., None], 0.1, 3)
    return np.where(where[..., None], image * np.exp(-np.array(density) * strength), image)


def found(image: NDArray[np.float64], **settings: Any) -> Segmentation:
    return segment(np.clip(np.rint(image), 0, 255).astype(np.uint8), MPP, **settings)


def mask_of(image: NDArray[np.float64], **settings: Any) -> NDArray[np.bool_]:
    return found(image, **settings).tissue


def overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return float((first & second).sum() / (first | second).sum())


@pytest.mark.parametrize(
    "background",
    [(240, 240, 240), (255, 255, 255), (190, 190, 190), (232, 214, 230), (120, 120, 120)],
    ids=["white", "pure", "grey", "lilac", "dark"],
)
@pytest.mark.parametrize(
    "density",
    [(0.45, 0.8, 0.35), (0.13, 0.13, 0.11), (0.5, 0.6, 0.8), (0.08, 0.25, 0.12)],
    ids=["he", "faint-ihc", "dab", "eosin"],
)
def test_finds_tissue_of_any_stain_on_any_glass(background, density):
    where = disc()
    assert overlap(mask_of(with_tissue(glass(background), where, density)), where) > 0.9


def test_bare_glass_has_no_tissue():
    assert not mask_of(glass()).any()
    assert not mask_of(np.full((SIDE, SIDE, 3), 255.0)).any()
    assert not mask_of(np.zeros((SIDE, SIDE, 3))).any()


def test_field_of_nothing_but_tissue_is_tissue():
    assert mask_of(with_tissue(glass(), np.ones((SIDE, SIDE), bool))).mean() > 0.99


def test_smear_of_stain_is_not_tissue():
    rows, columns = np.indices((SIDE, SIDE))
    smear = np.exp(-((columns - 60) ** 2 + (rows - 60) ** 2) / (2 * 40.0**2))
    where = disc(170, 170, 50)
    image = glass() * np.exp(-smear[..., None] * np.array([0.05, 0.25, 0.1]))
    assert overlap(mask_of(with_tissue(image, where)), where) > 0.9


def test_filled_in_gaps_and_borders_are_not_tissue():
    where = disc(radius=50)
    image = with_tissue(glass((238, 232, 238)), where)
    image[:40] = 255
    image[:, 225:] = 0
    image[235:] = 128
    assert overlap(mask_of(image), where) > 0.9


STAINS = {
    "he": (0.35, 0.8, 0.4),
    "eosin": (0.08, 0.3, 0.14),
    "haematoxylin": (0.28, 0.3, 0.2),
    "dab": (0.5, 0.7, 1.0),
    "unstained": (0.06, 0.07, 0.06),
}
INKS = {
    "blue": (35, 60, 160),
    "cyan": (60, 180, 220),
    "green": (20, 110, 70),
    "lime": (60, 150, 60),
    "yellow": (245, 235, 40),
    "orange": (240, 120, 20),
    "red": (200, 30, 45),
    "pink": (240, 60, 150),
    "purple": (90, 30, 140),
    "brown": (100, 60, 30),
    "grey": (70, 70, 75),
    "black": (18, 18, 20),
}


def painted(
    image: NDArray[np.float64], where: NDArray[np.bool_], colour: tuple[int, int, int], noise: float
) -> NDArray[np.float64]:
    """Something with soft edges on top."""
    grain = np.random.default_rng(2).normal(0, noise, (SIDE, SIDE, 1))
    cover = cv2.GaussianBlur(where.astype(np.float32), (0, 0), 0.8)[..., None]
    return image * (1 - cover) + cover * (np.array(colour) + grain)


def lines(*ends: tuple[tuple[int, int], tuple[int, int]], width: int) -> NDArray[np.bool_]:
    drawn = np.zeros((SIDE, SIDE), np.uint8)
    for start, end in ends:
        cv2.line(drawn, start, end, 1, width)
    return drawn > 0


@pytest.mark.parametrize("ink", INKS)
@pytest.mark.parametrize("stain", ["he", "haematoxylin", "dab"])
def test_pen_of_any_colour_is_not_tissue(ink, stain):
    where = disc(90, 90, 50)
    strokes = lines(((20, 200), (230, 180)), ((90, 90), (200, 150)), width=12)
    seen = found(painted(with_tissue(glass(), where, STAINS[stain]), strokes, INKS[ink], 6))
    assert not (seen.tissue & strokes).any()
    assert (seen.pen & strokes).sum() > 0.95 * strokes.sum() and seen.pen.sum() < 2.5 * strokes.sum()
    near = cv2.dilate(strokes.astype(np.uint8), np.ones((9, 9))) > 0
    assert overlap(seen.tissue, where & ~near) > 0.88
    assert seen.preset == ("he" if stain == "he" else "ihc")


@pytest.mark.parametrize("density", [(0.9, 1.0, 0.45), (0.9, 1.2, 1.4), (0.15, 0.9, 0.5), (0.3, 1.3, 1.45)])
@pytest.mark.parametrize("preset", ["auto", "ihc", "faint"])
def test_dark_stain_is_not_pen(density, preset):
    assert found(with_tissue(glass(), disc(), density), preset=preset).pen.mean() < 0.002


FINER = 4  # pixels at 2 µm across that stand for one of the thumbnail


def packed(density: tuple[float, float, float], where: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Tissue at 2 µm per pixel that is nothing but cells of 6 µm, evenly dense: on a thumbnail no cell is seen."""
    side = SIDE * FINER
    cells = cv2.GaussianBlur(np.random.default_rng(4).normal(0, 1, (side, side)), (0, 0), 1.0)
    cells -= cv2.GaussianBlur(cells, (0, 0), 2.5)
    strength = np.clip(1 + 0.2 * cells / cells.std(), 0.2, 2)[..., None]
    large = where.repeat(FINER, 0).repeat(FINER, 1)[..., None]
    light = np.where(large, 240 * np.exp(-np.array(density) * strength), 240)
    return np.clip(np.rint(light + np.random.default_rng(5).normal(0, 1, light.shape)), 0, 255).astype(np.uint8)


def look(fine: NDArray[np.uint8]) -> FinerLook:
    return FinerLook(FINER, lambda box: fine[box[1] * FINER : box[3] * FINER, box[0] * FINER : box[2] * FINER])


def reduced(fine: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(fine, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize("preset", ["auto", "he", "ihc", "faint"])
@pytest.mark.parametrize(
    "density", [(0.75, 1.75, 1.05), (0.7, 1.6, 0.95), (0.4, 1.9, 1.2)], ids=["follicle", "pulp", "packed blood"]
)
def test_packed_tissue_is_not_ink(density, preset):
    fine = packed(density, disc(radius=90))
    assert segment(reduced(fine), MPP, preset=preset).pen.mean() > 0.2  # the thumbnail alone cannot tell
    seen = segment(reduced(fine), MPP, preset=preset, finer=look(fine))
    assert not seen.pen.any() and not seen.ink.any()
    assert overlap(seen.tissue, disc(radius=90)) > 0.97


def test_dense_chromogen_is_not_black_ink():
    fine = packed((2.1, 2.3, 2.5), disc(radius=60))
    assert segment(reduced(fine), MPP, preset="ihc").ink.mean() > 0.1
    seen = segment(reduced(fine), MPP, preset="ihc", finer=look(fine))
    assert not seen.ink.any() and overlap(seen.tissue, disc(radius=60)) > 0.97


@pytest.mark.parametrize("ink", INKS)
def test_pen_over_packed_tissue_is_found_at_a_finer_look(ink):
    fine = packed((0.7, 1.6, 0.95), disc(90, 90, 60)).astype(np.float64)
    strokes = lines(((20, 200), (230, 180)), ((90, 90), (200, 150)), width=14)
    cover = cv2.GaussianBlur(strokes.repeat(FINER, 0).repeat(FINER, 1).astype(np.float32), (0, 0), 3.0)[..., None]
    grain = np.random.default_rng(6).normal(0, 4, (SIDE * FINER, SIDE * FINER, 1))
    painted = np.clip(fine * (1 - cover) + cover * (np.array(INKS[ink]) + grain), 0, 255).astype(np.uint8)
    seen = segment(reduced(painted), MPP, finer=look(painted))
    assert not (seen.tissue & strokes).any()
    assert (seen.ink & strokes).sum() > 0.95 * strokes.sum() and seen.ink.sum() < 2.5 * strokes.sum()


def test_ink_off_leaves_tissue_and_borders_as_they_are():
    image = with_tissue(glass(), disc(90, 90, 50))
    image[:, 225:] = 3
    strokes = lines(((20, 200), (200, 180)), width=12)
    marked = painted(image, strokes, INKS["purple"], 6)
    seen = found(marked, ink="off")
    assert not seen.ink.any() and seen.tissue[strokes].mean() > 0.9
    assert seen.pen[:, 230:].all() and not seen.pen[strokes].any()
    assert found(marked).ink[strokes].mean() > 0.95


def test_where_the_slide_cannot_be_read_nothing_speaks_for_ink():
    def unreadable(box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
        raise SlideError("damaged", "copy it again")

    assert structured(disc(), MPP, FinerLook(FINER, unreadable))[disc()].all()


@pytest.mark.parametrize(
    ("name", "tissue", "ink_um2"),
    [
        ("ink/spleen_dense.tif", 37636, (0, 0)),
        ("ink/gastritis_orange.tif", 16993, (50_000, 80_000)),
        ("ink/polyp_green.tif", 11203, (70_000, 90_000)),
    ],
)
def test_real_dense_tissue_and_real_ink(real_data: Path, name, tissue, ink_um2):
    with Slide(real_data / name) as slide:
        thumbnail = overview.thumbnail(slide)
        seen = segment(thumbnail.pixels, thumbnail.mpp, finer=overview.finer(slide, thumbnail))
    assert int(seen.tissue.sum()) == pytest.approx(tissue, rel=0.001)
    assert ink_um2[0] <= seen.ink.sum() * thumbnail.mpp**2 <= ink_um2[1]


def test_blue_and_green_chromogens_are_ink_in_he_alone():
    image = with_tissue(glass(), disc(), (0.9, 0.5, 0.3))
    assert found(image, preset="he").pen[disc(radius=50)].mean() > 0.9
    seen = found(image)
    assert seen.preset == "ihc" and not seen.pen.any() and overlap(seen.tissue, disc()) > 0.9


def bubble(image: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    rim = disc(190, 190, 45) & ~disc(190, 190, 41)
    light = disc(190, 190, 48) & ~disc(190, 190, 45)
    return painted(painted(image, rim, (70, 70, 70), 3), light, (252, 252, 252), 1), disc(190, 190, 55)


def coverslip(image: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    edge = lines(((0, 20), (255, 14)), ((240, 0), (236, 255)), width=2)
    return painted(image, edge, (60, 60, 62), 12), edge


def sharp_dust(image: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    grains = np.zeros((SIDE, SIDE), bool)
    for x, y in np.random.default_rng(5).integers(-9, 10, (14, 2)):
        grains |= disc(200 + x, 60 + y, 2.5) | disc(220 - y, 200 + x, 2.5) | disc(60 + y, 210 - x, 2.5)
    return painted(image, grains, (60, 60, 60), 20), grains


def blurred_dust(image: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    rows, columns = np.indices((SIDE, SIDE))
    dust = np.exp(-((columns - 200) ** 2 + (rows - 60) ** 2) / (2 * 9.0**2))
    return image - 70 * dust[..., None], disc(200, 60, 20)


def black_border(image: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    border = np.zeros((SIDE, SIDE), bool)
    border[:40], border[:, 225:] = True, True
    return np.where(border[..., None], 4, image), border


def black_background(image: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return np.where(disc(90, 90, 70)[..., None], image, 0), ~disc(90, 90, 75)


def grey_field(image: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    darker = image * 0.65
    darker[:40], darker[:, 225:] = 90, 60
    return darker, ~disc(90, 90, 60)


FLAWS = [bubble, coverslip, sharp_dust, blurred_dust, black_border, black_background, grey_field]


@pytest.mark.parametrize("stain", ["he", "haematoxylin", "unstained"])
@pytest.mark.parametrize("flaw", FLAWS, ids=lambda flaw: flaw.__name__)
def test_what_else_lies_on_a_slide_is_not_tissue(flaw, stain):
    where = disc(90, 95, 50)
    image, bad = flaw(with_tissue(glass(), where, STAINS[stain]))
    seen = found(image)
    assert not (seen.tissue & bad).any()
    assert overlap(seen.tissue, where) > 0.9
    assert seen.preset == {"he": "he", "haematoxylin": "ihc", "unstained": "faint"}[stain]


def test_fat_is_tissue():
    centres = cKDTree(np.random.default_rng(7).uniform(30, 226, (900, 2)))
    distance, _ = centres.query(np.moveaxis(np.indices((SIDE, SIDE)), 0, -1), k=2)
    septa = (distance[..., 1] - distance[..., 0] < 1.2) & disc(radius=90)
    assert septa.sum() < 0.5 * disc(radius=90).sum()
    image = glass() * np.exp(-np.where(septa[..., None], (0.1, 0.35, 0.15), 0))
    assert overlap(mask_of(image), disc(radius=90)) > 0.9


@pytest.mark.parametrize(
    ("stain", "preset"),
    [("he", "he"), ("eosin", "he"), ("haematoxylin", "ihc"), ("dab", "ihc"), ("unstained", "faint")],
)
def test_auto_chooses_by_colour_and_strength(stain, preset):
    assert found(with_tissue(glass(), disc(), STAINS[stain])).preset == preset


def test_a_preset_that_is_given_is_used():
    image = with_tissue(glass(), disc(), (0.12, 0.12, 0.12))
    assert not found(image, preset="he").tissue.any()
    assert not found(image, preset="ihc").tissue.any()
    faint = found(image, preset="faint")
    assert faint.preset == "faint" and overlap(faint.tissue, disc()) > 0.9


def test_settings_of_the_command_are_those_of_the_function():
    config = TileConfig(out="out")
    assert (config.min_area, config.max_hole) == (MIN_AREA, MAX_HOLE)
    assert get_args(get_type_hints(TileConfig)["tissue"]) == get_args(Choice)
    assert get_args(get_type_hints(TileConfig)["ink"]) == get_args(Ink)


def test_small_pieces_are_dropped_and_small_holes_filled_by_area():
    where = disc(90, 128, 60) & ~disc(90, 128, 20)
    speck = disc(210, 60, 14)
    image = with_tissue(glass(), where | speck)
    few = mask_of(image, min_area=100_000, max_hole=0)
    assert not few[speck].any() and few[128, 90] == np.False_
    assert mask_of(image, min_area=10_000, max_hole=0)[60, 210]
    assert mask_of(image, min_area=100_000, max_hole=200_000)[128, 90]


def test_result_scales_with_resolution():
    where = disc()
    fine = with_tissue(glass(), where)
    coarse = cv2.resize(fine, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)
    mask = segment(np.rint(coarse).astype(np.uint8), 2 * MPP).tissue
    assert overlap(mask.repeat(2, 0).repeat(2, 1), where) > 0.85


@pytest.mark.parametrize(
    ("name", "tissue", "bare", "low", "high"),
    [
        (
            "wsi/lung_scc_HE3.svs",
            [(0.25, 0.2), (0.22, 0.62), (0.6, 0.5)],
            [(0.9, 0.1), (0.6, 0.9), (0.05, 0.05)],
            0.17,
            0.24,
        ),
        ("wsi/metaplasia_HE.svs", [(0.2, 0.5), (0.7, 0.2), (0.8, 0.75)], [(0.03, 0.03), (0.97, 0.97)], 0.55, 0.66),
        (
            "wsi/metaplasia_trypsin_IHC.svs",
            [(0.3, 0.3), (0.55, 0.55), (0.7, 0.7)],
            [(0.12, 0.2), (0.52, 0.8)],
            0.5,
            0.6,
        ),
        ("wsi/pdac_trucut_HE3.svs", [(0.52, 0.4), (0.22, 0.83)], [(0.1, 0.1), (0.7, 0.8), (0.57, 0.14)], 0.07, 0.12),
        (
            "labelled/her2st_B4.tif",
            [(0.2, 0.85), (0.4, 0.6), (0.7, 0.8)],
            [(0.2, 0.2), (0.12, 0.3), (0.9, 0.5)],
            0.25,
            0.3,
        ),
        ("labelled/her2st_C3.tif", [(0.3, 0.3), (0.6, 0.4)], [(0.24, 0.57), (0.78, 0.45), (0.5, 0.9)], 0.15, 0.2),
        ("vendor/cmu-1-small-region.svs", [(0.45, 0.6), (0.3, 0.95)], [(0.1, 0.2), (0.9, 0.3)], 0.37, 0.45),
    ],
)
def test_real_slides(real_data: Path, name, tissue, bare, low, high):
    with Slide(real_data / name) as slide:
        thumbnail = slide.thumbnail()
    seen = segment(thumbnail.pixels, thumbnail.mpp)
    mask = seen.tissue
    height, width = mask.shape
    assert low < mask.mean() < high
    assert seen.preset == ("ihc" if "IHC" in name else "he") and seen.pen.mean() < 0.005
    assert all(mask[int(y * height), int(x * width)] for x, y in tissue)
    assert not any(mask[int(y * height), int(x * width)] for x, y in bare)
