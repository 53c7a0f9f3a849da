"""Stain jitter: random changes of the amounts of haematoxylin, eosin and a residual, as they vary between laboratories.

Light that passes a stain falls off exponentially (Beer and Lambert), so stains add up in optical density, OD = -log10 of the
transmitted share. With the rows of S the unit optical densities of the stains in RGB, OD = c S, and c are their amounts.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

HAEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.07, 0.99, 0.11)
DARKEST = 1 / 255


@lru_cache(maxsize=1)
def stain_matrix() -> NDArray[np.float64]:
    """S, float64 (3, 3): unit rows of haematoxylin, eosin and the residual, which is at right angles to both, in RGB.

    The two stains' absorptions are those that Ruifrok and Johnston measured (Analytical and Quantitative Cytology and
    Histology 23:291, 2001).
    """
    stains = np.array([HAEMATOXYLIN, EOSIN])
    rows = np.vstack([stains, np.cross(*stains)])
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def stain_change(
    scale: NDArray[np.float64], shift: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How optical density changes when c' = scale c + shift: OD' = OD S^-1 diag(scale) S + shift S.

    The augmentation of Tellez et al. (IEEE Transactions on Medical Imaging 37:2126, 2018) with the residual in the place of
    diaminobenzidine.

    :param scale: float64 (B, 3), factors of haematoxylin, eosin and residual.
    :param shift: float64 (B, 3), in optical density.
    :returns: the product, float64 (B, 3, 3), for columns of densities, and what is added, (B, 3, 1).
    """
    matrix = stain_matrix()
    turn = np.linalg.inv(matrix) @ (scale[:, :, None] * matrix)
    return turn.transpose(0, 2, 1), (shift @ matrix)[:, :, None]


def change_stains(images: Tensor, turn_B33: Tensor, move_B31: Tensor) -> Tensor:
    """Images whose stains changed as :func:`stain_change` says; clamped to 0..1.

    :param images: float32 (B, 3, H, W), 0..1; darker than 1/255 counts as 1/255.
    """
    density = images.clamp_min(DARKEST).log10_().neg_().flatten(2)
    return torch.baddbmm(move_B31, turn_B33, density).neg_().mul_(math.log(10)).exp_().clamp_(max=1).view_as(images)
