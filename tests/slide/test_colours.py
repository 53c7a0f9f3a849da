from __future__ import annotations

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from sgcl_cli.slide import colours

# Machado, Oliveira and Fernandes (2009), at full severity, on linear RGB
PROTAN = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
DEUTAN = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))


def seen(rgb: np.ndarray, matrix: tuple | None) -> np.ndarray:
    """CIELAB of colours as they are seen, (n, 3)."""
    share = rgb / 255
    if matrix is not None:
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4) @ np.array(matrix).T
        linear = np.clip(linear, 0, 1)
        share = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb2lab(share[None])[0]


def least(found: np.ndarray) -> float:
    """The least difference between two of some colours."""
    differences = deltaE_ciede2000(found[:, None], found[None])
    return float(differences[~np.eye(len(found), dtype=bool)].min())


@pytest.mark.parametrize(("matrix", "of_eight", "of_twenty"), [(None, 20, 15), (PROTAN, 13, 9), (DEUTAN, 13, 9)])
def test_twenty_classes_can_be_told_apart_by_any_eye(matrix, of_eight, of_twenty):
    rgb = np.array([colours.of_class(number) for number in range(20)], float)
    assert least(seen(rgb, matrix)) > of_twenty and least(seen(rgb[:8], matrix)) > of_eight


def test_no_class_looks_like_glass_tissue_or_what_is_drawn_besides():
    classes = seen(np.array(colours.CLASSES, float), None)
    others = np.array([(255, 255, 255), (235, 190, 210), (110, 70, 140), colours.TISSUE, colours.UNKNOWN], float)
    assert deltaE_ciede2000(classes[:, None], seen(others, None)[None]).min() > 12


def test_colours_come_again_after_the_last_and_are_written_as_pages_have_them():
    assert colours.of_class(20) == colours.of_class(0) == (0, 238, 238)
    assert colours.hexadecimal(colours.of_class(0)) == "#00eeee"
