from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sgcl_cli.engine.stain import jitter_stains, stain_matrix
from sgcl_cli.engine.views import MEAN, STD, ViewSettings, denormalise, make_views, normalise, uniforms

STILL = {
    "view": 32,
    "corner": 16,
    "crop": (1, 1),
    "corner_crop": (1, 1),
    **dict.fromkeys(("grayscale", "brightness", "contrast", "saturation", "hue", "flip"), 0),
}


def _patches(count: int, side: int = 32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def _whole(patches: torch.Tensor, index: np.ndarray, **strengths: float) -> np.ndarray:
    views = make_views(patches, index, settings=ViewSettings(**{**STILL, **strengths}), seed=3, epoch=2)
    return (views.whole * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)).numpy()


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


def test_stains_vary_by_what_the_hash_says_of_the_patch() -> None:
    patches, index = _patches(6), np.array([5, 0, 9, 123_456_789_012, 2, 7])
    seen = _whole(patches, index, stain_scale=0.25, stain_shift=0.05)
    draw = uniforms(index, 3, 2, 0)
    for b in range(6):
        scale = [1 + 0.25 * (2 * float(draw[30 + n][b]) - 1) for n in range(3)]
        shift = [0.05 * (2 * float(draw[33 + n][b]) - 1) for n in range(3)]
        for y, x in ((0, 0), (5, 17), (31, 31)):
            pixel = [value / 255 for value in patches[b, y, x].tolist()]
            np.testing.assert_allclose(seen[b, :, y, x], _stained(pixel, scale, shift), atol=5e-5)


def test_patches_turn_and_flip_as_numpy_turns_them() -> None:
    patches, index = _patches(64), np.arange(100, 164)
    seen = _whole(patches, index, rotate90=0.6, vertical_flip=0.5, flip=0.5)
    draw = uniforms(index, 3, 2, 0)
    poses = set()
    for b in range(64):
        expected = patches[b].numpy().astype(np.float64) / 255
        if draw[0][b] < 0.5:
            expected = expected[:, ::-1]
        if draw[2][b] < 0.5:
            expected = expected[::-1]
        turns = 1 + int(3 * draw[4][b]) if draw[3][b] < 0.6 else 0
        poses.add((bool(draw[0][b] < 0.5), bool(draw[2][b] < 0.5), turns))
        np.testing.assert_allclose(seen[b], np.rot90(expected, turns).transpose(2, 0, 1), atol=1e-5)
    assert len(poses) == 16


def test_quarters_turn_in_place_and_each_by_its_own_draw() -> None:
    patches, index = _patches(32), np.arange(32)
    settings = ViewSettings(**{**STILL, "rotate90": 1.0})
    corners = make_views(patches, index, settings=settings, seed=0, epoch=0).corners
    plain = normalise(patches.permute(0, 3, 1, 2).float() / 255)
    differ = False
    for q, (r, c) in enumerate(((0, 0), (0, 16), (16, 0), (16, 16))):
        turns = 1 + np.floor(3 * uniforms(index, 0, 0, 1 + q)[4]).astype(int)
        differ |= bool((turns != 1 + np.floor(3 * uniforms(index, 0, 0, 1)[4]).astype(int)).any())
        for b in range(32):
            quarter = plain[b, :, r : r + 16, c : c + 16]
            torch.testing.assert_close(corners[q, b], torch.rot90(quarter, int(turns[b]), (1, 2)), rtol=0, atol=1e-5)
    assert differ


@pytest.mark.parametrize(
    "extra", [{"rotate90": 0.5}, {"vertical_flip": 0.5}, {"stain_scale": 0.2, "stain_shift": 0.05}]
)
def test_the_extras_do_not_depend_on_the_batch_and_move_no_other_draw(extra: dict[str, float]) -> None:
    patches, index = _patches(6), np.array([10, 3, 7, 8, 1, 5])
    settings = ViewSettings(view=28, corner=12, **extra)
    whole = make_views(patches, index, settings=settings, seed=1, epoch=2)
    for rows in ([4], [5, 0, 3]):
        part = make_views(patches[rows], index[rows], settings=settings, seed=1, epoch=2)
        torch.testing.assert_close(part.whole, whole.whole[rows], rtol=0, atol=5e-5)
        torch.testing.assert_close(part.corners, whole.corners[:, rows], rtol=0, atol=5e-5)
    plain = make_views(patches, index, settings=ViewSettings(view=28, corner=12), seed=1, epoch=2)
    assert not torch.allclose(plain.whole, whole.whole, atol=0.1)
    untouched = [b for b in range(6) if not torch.allclose(plain.whole[b], whole.whole[b], atol=1e-5)]
    if "stain_scale" not in extra:
        assert 0 < len(untouched) < 6


def test_denormalising_gives_the_pixels_back() -> None:
    patches = _patches(2)
    assert np.array_equal(denormalise(normalise(patches.permute(0, 3, 1, 2).float() / 255)), patches.numpy())
