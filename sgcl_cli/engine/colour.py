"""Colour augmentation of a batch: grayscale, then brightness, contrast, saturation and hue in a random order per patch.

The operations are torchvision's. All but hue are x -> clamp(M x + O mean(x), 0, 1) with 3 x 3 matrices M and O, so the same
operations serve a batch whatever the order of each patch: three such steps, hue, and three more, where a step that a patch takes
on the other side of hue is the identity. The matrices, made on the host, are all that differs between patches.

Letters: B patches, S steps, L pixels of an image.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)


class Strengths(Protocol):
    """Strengths of the operations; hue in turns, grayscale as a probability."""

    @property
    def grayscale(self) -> float: ...
    @property
    def brightness(self) -> float: ...
    @property
    def contrast(self) -> float: ...
    @property
    def saturation(self) -> float: ...
    @property
    def hue(self) -> float: ...


class ColourPlan(NamedTuple):
    """The operations of each patch, float32 arrays on the host or tensors on the device.

    :ivar matrix: (S, B, 3, 3), M.
    :ivar around: (S, B, 3, 3), O.
    :ivar hue: (B, 3, 1), six times the turn of the hue, plus 5, 3 and 1.
    """

    matrix: Any
    around: Any
    hue: Any


def plan(draw: Any, settings: Strengths) -> ColourPlan:
    """The steps of each patch: three before hue and three after it, or three if hue is not changed.

    :param draw: the patch's uniform numbers by position; 1 decides on grayscale, 10 to 13 are the strengths, 20 to 23 the order.
    """
    gray = draw[1] < settings.grayscale
    count, identity, luma = len(gray), np.eye(3), np.tile(np.array(_LUMA), (3, 1))
    turned = settings.hue > 0
    order = np.argsort(np.stack([draw[20 + n] for n in range(4)]), axis=0)
    place = np.argsort(order, axis=0)  # of each operation
    strengths = np.array([settings.brightness, settings.contrast, settings.saturation])
    factor = 1 + strengths[:, None] * (2 * np.stack([draw[10 + n] for n in range(3)]) - 1)
    matrix = np.tile(identity, (6 if turned else 3, count, 1, 1))
    around = np.zeros_like(matrix)
    patch = np.arange(count)
    for which in (_BRIGHTNESS, _CONTRAST, _SATURATION):
        after = (place[which] > place[_HUE]) & turned
        before_it = sum((place[other] < place[which]).astype(np.int64) for other in range(3) if other != which)
        step = before_it + 3 * after
        rest = (1 - factor[which])[:, None, None] * luma
        matrix[step, patch] = factor[which][:, None, None] * identity + (rest if which == _SATURATION else 0)
        around[step, patch] = rest if which == _CONTRAST else 0
    matrix[0, gray] = matrix[0, gray] @ luma
    hue = 6 * settings.hue * (2 * draw[13] - 1)[:, None] + np.array([5.0, 3.0, 1.0])
    return ColourPlan(matrix.astype(np.float32), around.astype(np.float32), hue[:, :, None].astype(np.float32))


def recolour(images: Tensor, plan: ColourPlan) -> Tensor:
    """Images (B, 3, H, W) in 0..1 after all their operations."""
    pixel_B3L = images.flatten(2)
    for step, (matrix_B33, around_B33) in enumerate(zip(plan.matrix, plan.around, strict=True)):
        if step == 3:
            pixel_B3L = turn_hue(pixel_B3L, plan.hue)
        offset_B31 = torch.bmm(around_B33, pixel_B3L.mean(2, keepdim=True))
        pixel_B3L = torch.baddbmm(offset_B31, matrix_B33, pixel_B3L).clamp_(0, 1)
    return pixel_B3L.view_as(images)


def recolour_by_pixel(images: Tensor, plan: ColourPlan) -> Tensor:
    """``recolour`` written as pointwise operations, which a compiler fuses into a few kernels."""
    pixel_B3L = images.flatten(2)
    for step, (matrix_B33, around_B33) in enumerate(zip(plan.matrix, plan.around, strict=True)):
        if step == 3:
            pixel_B3L = turn_hue(pixel_B3L, plan.hue)
        mean_B3 = pixel_B3L.mean(2)
        offset_B3 = (around_B33 * mean_B3[:, None]).sum(2)
        mixed_B33L = matrix_B33[..., None] * pixel_B3L[:, None]
        pixel_B3L = (mixed_B33L.sum(2) + offset_B3[..., None]).clamp(0, 1)
    return pixel_B3L.view_as(images)


def turn_hue(pixel_B3L: Tensor, hue_B31: Tensor) -> Tensor:
    """Hue (HSV) turned by a share of the circle; value and saturation stay.

    :param hue_B31: six times the turn, plus 5, 3 and 1 for the three channels.
    """
    value, which = pixel_B3L.max(dim=1, keepdim=True)
    span = value - pixel_B3L.amin(dim=1, keepdim=True)
    apart = (pixel_B3L.roll(-1, 1) - pixel_B3L.roll(1, 1)).gather(1, which)
    sector = torch.add(apart / span.clamp_min(1e-12), which, alpha=2)
    k = (sector + hue_B31).remainder_(6)
    return torch.addcmul(value, span, torch.minimum(k, 4 - k).clamp_(0, 1), value=-1)


class Recolour:
    """``recolour`` on the CPU; on CUDA the compiled ``recolour_by_pixel``, if torch can compile there.

    :ivar why_not: why it could not be compiled; None if it was, or was not tried yet.
    """

    def __init__(self) -> None:
        self.why_not: str | None = None
        self._compiled: Any = None

    def __call__(self, images: Tensor, plan: ColourPlan) -> Tensor:
        """Images (B, 3, H, W) in 0..1 after all their operations."""
        if images.device.type != "cuda" or self.why_not is not None or torch.compiler.is_compiling():
            return recolour(images, plan)
        try:
            self._compiled = self._compiled or torch.compile(recolour_by_pixel, dynamic=False)
            done: Tensor = self._compiled(images, plan)
        except Exception as error:  # a missing compiler, Triton or driver raises many kinds; only speed is lost
            self.why_not = str(error).strip().partition("\n")[0] or type(error).__name__
            return recolour(images, plan)
        return done
