from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sgcl_cli.slide.reader import Slide
from sgcl_cli.slide.tissue import optical_density, pen_mask, smooth_mask, tissue_mask

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


def mask_of(image: NDArray[np.float64], **settings: float) -> NDArray[np.bool_]:
    return tissue_mask(np.clip(np.rint(image), 0, 255).astype(np.uint8), MPP, **settings)


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


@pytest.mark.parametrize(
    "ink", [(35, 60, 160), (20, 110, 70), (60, 150, 60), (18, 18, 20)], ids=["blue", "green", "lime", "black"]
)
def test_pen_is_not_tissue(ink):
    where = disc(90, 90, 50)
    image = with_tissue(glass(), where)
    strokes = np.zeros((SIDE, SIDE), np.uint8)
    cv2.line(strokes, (20, 200), (230, 180), 1, 12)
    cv2.line(strokes, (90, 90), (200, 150), 1, 10)
    texture = np.random.default_rng(2).normal(0, 6, (SIDE, SIDE, 1))
    image = np.where(strokes[..., None] > 0, np.array(ink) + texture, image)
    mask = mask_of(cv2.GaussianBlur(image, (0, 0), 0.8))
    assert (mask & (strokes > 0)).sum() < 0.02 * strokes.sum()
    assert overlap(mask, where & (cv2.dilate(strokes, np.ones((9, 9))) == 0)) > 0.85


def test_dark_stain_is_not_pen():
    for density in ((0.9, 1.0, 0.45), (0.9, 1.2, 1.4), (0.15, 0.9, 0.5)):
        image = with_tissue(glass(), disc(), density)
        assert pen_mask(np.clip(image, 0, 255).astype(np.uint8), MPP).mean() < 0.002


def test_dust_out_of_focus_is_not_tissue():
    rows, columns = np.indices((SIDE, SIDE))
    dust = np.exp(-((columns - 200) ** 2 + (rows - 60) ** 2) / (2 * 9.0**2))
    where = disc(100, 150, 60)
    assert overlap(mask_of(with_tissue(glass() - 70 * dust[..., None], where)), where) > 0.9


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
    mask = tissue_mask(np.rint(coarse).astype(np.uint8), 2 * MPP)
    assert overlap(mask.repeat(2, 0).repeat(2, 1), where) > 0.85


def test_optical_density_of_white_black_and_between():
    density = optical_density(np.array([[[255, 127, 0]]], np.uint8))
    assert density[0, 0] == pytest.approx([0, np.log(2), np.log(256)], abs=1e-6)


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
    mask = tissue_mask(thumbnail.pixels, thumbnail.mpp)
    height, width = mask.shape
    assert low < mask.mean() < high
    assert all(mask[int(y * height), int(x * width)] for x, y in tissue)
    assert not any(mask[int(y * height), int(x * width)] for x, y in bare)


def test_tissue_far_out_of_focus_is_smooth_and_tissue_in_focus_is_not():
    where = disc(radius=80)
    sharp = np.clip(np.rint(with_tissue(glass(), where)), 0, 255).astype(np.uint8)
    far = cv2.GaussianBlur(sharp, (0, 0), 24 / MPP)
    inside = disc(radius=60)
    assert smooth_mask(sharp)[inside].mean() < 0.1 < 0.6 < smooth_mask(far)[inside].mean()
    assert smooth_mask(sharp)[~disc(radius=85)].all()
