from __future__ import annotations

import math

import numpy as np
import torch

from sgcl_cli.engine.stain import change_stains, stain_change, stain_matrix


def jitter_stains(images: torch.Tensor, scale: np.ndarray, shift: np.ndarray) -> torch.Tensor:
    return change_stains(images, *(torch.from_numpy(part).float() for part in stain_change(scale, shift)))


def _stained(pixel: list[float], scale: list[float], shift: list[float]) -> list[float]:
    """The equation, stain by stain, in float64: amounts by Cramer's rule, changed, and light through all three."""
    h = [x / math.sqrt(0.65**2 + 0.70**2 + 0.29**2) for x in (0.65, 0.70, 0.29)]
    e = [x / math.sqrt(0.07**2 + 0.99**2 + 0.11**2) for x in (0.07, 0.99, 0.11)]
    r = [h[1] * e[2] - h[2] * e[1], h[2] * e[0] - h[0] * e[2], h[0] * e[1] - h[1] * e[0]]
    length = math.sqrt(sum(x * x for x in r))
    stains = [h, e, [x / length for x in r]]

    def determinant(rows: list[list[float]]) -> float:
        (a, b, c), (d, f, g), (i, j, k) = rows
        return a * (f * k - g * j) - b * (d * k - g * i) + c * (d * j - f * i)

    density = [-math.log10(max(x, 1 / 255)) for x in pixel]
    amounts = []
    for which in range(3):
        replaced = [density if row == which else stains[row] for row in range(3)]
        amounts.append(determinant(replaced) / determinant(stains))
    changed = [a * s + t for a, s, t in zip(amounts, scale, shift, strict=True)]
    return [
        min(1.0, 10 ** -sum(c * stain[channel] for c, stain in zip(changed, stains, strict=True)))
        for channel in range(3)
    ]


def test_the_stain_matrix_is_that_of_the_literature() -> None:
    matrix = stain_matrix()
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1)
    np.testing.assert_allclose(matrix[:2], [[0.6512, 0.7013, 0.2905], [0.0701, 0.9914, 0.1102]], atol=2e-4)
    np.testing.assert_allclose(matrix[2] @ matrix[:2].T, 0, atol=1e-12)


def test_stain_jitter_is_its_equation_pixel_by_pixel() -> None:
    draw = np.random.default_rng(1)
    images = torch.from_numpy(draw.random((3, 3, 4, 5)).astype(np.float32))
    images[0, :, 0, 0], images[0, :, 0, 1], images[1, 0, 1, 1] = 0.0, 1.0, 0.0
    scale, shift = 1 + 0.3 * (2 * draw.random((3, 3)) - 1), 0.1 * (2 * draw.random((3, 3)) - 1)
    ours = jitter_stains(images, scale, shift).numpy()
    for b, y, x in np.ndindex(3, 4, 5):
        expected = _stained(images[b, :, y, x].tolist(), scale[b].tolist(), shift[b].tolist())
        np.testing.assert_allclose(ours[b, :, y, x], expected, rtol=0, atol=2e-5)


def test_more_haematoxylin_makes_blue_nuclei_darker_and_leaves_eosin_pink() -> None:
    nucleus, cytoplasm = (10 ** -(0.8 * stain_matrix()[which]) for which in (0, 1))
    images = torch.from_numpy(np.stack([nucleus, cytoplasm]).astype(np.float32)).view(2, 3, 1, 1)
    more = jitter_stains(images, np.array([[1.5, 1.0, 1.0]] * 2), np.zeros((2, 3))).view(2, 3).numpy()
    np.testing.assert_allclose(more[0], 10 ** -(1.2 * stain_matrix()[0]), atol=1e-5)
    np.testing.assert_allclose(more[1], cytoplasm, atol=1e-5)
