"""uint8 patches -> one global and four corner views, batched, on the device.

Every parameter of a view comes from a counter-based hash of (seed, epoch, patch index, view, parameter), so neither the
device, nor the batch, nor the worker that decoded the patch can matter. The parameters, a few numbers a patch, are made on the
host, in float64, so that no rounding of a device can move a crop; they travel in one copy that nothing waits for. On the
device the four quarters are one batch; crop, antialiased resize and flip are two matrix products; colours are ``colour``'s. What
histology adds (quarter turns, vertical flip, stain jitter) is off unless asked for, and draws from places of its own, so it moves
nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sgcl_cli.engine import colour
from sgcl_cli.engine.runtime import to_device
from sgcl_cli.engine.stain import change_stains, stain_change
from sgcl_cli.method import streams

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
_ASPECT = (3 / 4, 4 / 3)
_CROP_TRIES = 10
_STAINS = 3  # haematoxylin, eosin, residual
RECOLOUR = colour.Recolour()


@dataclass(frozen=True)
class ViewSettings:
    """Strengths of the augmentation; sizes in pixels, crops as shares of the area, hue in turns, stain shift in optical
    density; grayscale, flip, vertical_flip and rotate90 are probabilities."""

    view: int = 224
    corner: int = 96
    crop: tuple[float, float] = (0.2, 1.0)
    corner_crop: tuple[float, float] = (0.2, 0.56)
    grayscale: float = 0.2
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.4
    flip: float = 0.5
    vertical_flip: float = 0.0
    rotate90: float = 0.0
    stain_scale: float = 0.0
    stain_shift: float = 0.0


@dataclass(frozen=True)
class Views:
    """Normalised float32 images: ``whole`` and ``second`` (B, 3, view, view); ``corners`` (4, B, 3, corner, corner), row by
    row. ``second`` and ``corners`` are None where they are not wanted."""

    whole: Tensor
    corners: Tensor | None
    second: Tensor | None = None


def make_views(
    patches: Tensor,
    index: NDArray[np.int64],
    *,
    settings: ViewSettings,
    seed: int,
    epoch: int,
    corners: bool = True,
    second: bool = False,
) -> Views:
    """Draw the views of a batch.

    :param patches: uint8 (B, H, W, 3) on the device that shall compute; H = W, even.
    :param index: global indices of the patches, int64 (B,), on the CPU.
    :param corners: whether the four corner views are wanted.
    :param second: whether another global view is wanted, for MoCo's keys.
    """
    kinds = [_Kind((0, 5) if second else (0,), settings.crop, settings.view, patches)]
    if corners:
        kinds.append(_Kind((1, 2, 3, 4), settings.corner_crop, settings.corner, _quarters(patches)))
    plans = [_planned(kind, index, seed, epoch, settings) for kind in kinds]
    arrays = [np.ascontiguousarray(part, np.float32) for plan in plans for part in plan]
    moved = iter(to_device(arrays, patches.device))
    drawn = [_draw(kind, _Plan(*islice(moved, len(_Plan._fields))), settings) for kind in kinds]
    wholes = drawn[0].view(-1, len(index), *drawn[0].shape[1:])
    return Views(
        whole=wholes[0],
        corners=drawn[1].view(4, len(index), *drawn[1].shape[1:]) if corners else None,
        second=wholes[1] if second else None,
    )


class _Kind(NamedTuple):
    """Views of one size: their numbers in the hash, share of the area, size, and the patches (B, H, W, 3) that they are cut from,
    one for each view, or one for all views of an index."""

    views: tuple[int, ...]
    area: tuple[float, float]
    size: int
    patches: Tensor


class _Plan(NamedTuple):
    """What is done to each image of a kind, view by view; arrays on the host or tensors on the device.

    cut (2, B, 5): of rows and columns, the place of the first centre and the step between centres, in pixels, what a pixel's
    distance from a centre adds to its weight, and the first and the last place inside the box.
    transposed (B,).    matrix, around, hue: ``ColourPlan``.    stain (B, 3, 3), shift (B, 3, 1): ``stain``'s product and move.
    scale (2, 3, 1): factor and offset of the normalisation.    place (size,), pixel (side,): 0, 1, .. and 0.5, 1.5, ..
    """

    cut: Any
    transposed: Any
    matrix: Any
    around: Any
    hue: Any
    stain: Any
    shift: Any
    scale: Any
    place: Any
    pixel: Any


def _quarters(patches: Tensor) -> Tensor:
    """(B, H, W, 3) -> (4 B, H / 2, W / 2, 3), quarter by quarter, row by row."""
    count, side = patches.shape[:2]
    half = side // 2
    return patches.reshape(count, 2, half, 2, half, 3).permute(1, 3, 0, 2, 4, 5).reshape(-1, half, half, 3)


def _planned(kind: _Kind, index: NDArray[np.int64], seed: int, epoch: int, settings: ViewSettings) -> _Plan:
    draw = uniforms(np.tile(index, len(kind.views)), seed, epoch, np.repeat(kind.views, len(index)))
    box = crop_boxes(draw, kind.patches.shape[1], kind.area)
    mirrored, upended, transposed = _pose(draw, settings)
    rows = cut_places(box[:, 1], box[:, 3], kind.size, upended)
    columns = cut_places(box[:, 0], box[:, 2], kind.size, mirrored)
    colours = colour.plan(draw, settings)
    stained = settings.stain_scale > 0 or settings.stain_shift > 0
    around = np.stack([2 * draw[30 + n] - 1 for n in range(2 * _STAINS)], axis=1) if stained else np.zeros((0, 6))
    stain, shift = stain_change(
        1 + settings.stain_scale * around[:, :_STAINS], settings.stain_shift * around[:, _STAINS:]
    )
    std = np.array(STD)
    scale = np.stack([1 / std, -np.array(MEAN) / std])[:, :, None]
    place, pixel = np.arange(kind.size), np.arange(0.5, kind.patches.shape[1])
    return _Plan(np.stack([rows, columns]), transposed, *colours, stain, shift, scale, place, pixel)


def _draw(kind: _Kind, plan: _Plan, settings: ViewSettings) -> Tensor:
    """The views of a kind, normalised: (B, 3, size, size)."""
    count, side = len(plan.transposed), kind.patches.shape[1]
    pixels = kind.patches.to(torch.float32).div_(255).reshape(-1, side, side * 3)
    if len(pixels) < count:
        pixels = pixels.repeat(count // len(pixels), 1, 1)
    rows, columns = cut_weights(plan.cut.flatten(0, 1), plan.place, plan.pixel).view(2, count, kind.size, side)
    upright = torch.bmm(rows, pixels).view(count, kind.size, side, 3).permute(0, 3, 1, 2)
    cut = torch.bmm(upright.reshape(count, -1, side), columns.transpose(1, 2)).view(count, 3, kind.size, kind.size)
    if settings.rotate90 > 0:
        cut = torch.where(plan.transposed.view(-1, 1, 1, 1) > 0, cut.transpose(-1, -2), cut)
    if len(plan.stain):
        cut = change_stains(cut.contiguous(), plan.stain, plan.shift)
    coloured = RECOLOUR(cut.contiguous(), colour.ColourPlan(plan.matrix, plan.around, plan.hue))
    factor, offset = plan.scale.unsqueeze(-1)
    return torch.addcmul(offset, coloured, factor)


def normalise(images: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """(x - mean) / std per channel of images (B, 3, H, W) in 0..1."""
    shift = torch.tensor(mean, device=images.device, dtype=images.dtype).view(1, 3, 1, 1)
    scale = torch.tensor(std, device=images.device, dtype=images.dtype).view(1, 3, 1, 1)
    return (images - shift) / scale


def denormalise(images: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> NDArray[np.uint8]:
    """What a person sees of normalised images (B, 3, H, W): uint8 (B, H, W, 3) on the CPU."""
    shift = torch.tensor(mean, device=images.device).view(1, 3, 1, 1)
    scale = torch.tensor(std, device=images.device).view(1, 3, 1, 1)
    pixels = (images.float() * scale + shift).clamp(0, 1).mul(255).round().to(torch.uint8)
    seen: NDArray[np.uint8] = pixels.permute(0, 2, 3, 1).cpu().numpy()
    return seen


class Uniforms:
    """Numbers in [0, 1) for the patches of a batch, float64 (B,) each, named by position: the n-th is always the same."""

    def __init__(self, key: NDArray[np.uint64]) -> None:
        self._key = key

    def __getitem__(self, position: int) -> NDArray[np.float64]:
        with np.errstate(over="ignore"):
            bits = _mix(self._key + np.uint64(streams.GOLDEN * (position + 1) % 2**64))
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniforms(index: NDArray[np.int64], seed: int, epoch: int, view: int | NDArray[np.int64]) -> Uniforms:
    """The stream of a view of each patch: the hash of ``streams`` of (seed, epoch, index, view), position by position."""
    key = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for part in (seed, epoch, index, view):
            bits = np.atleast_1d(np.asarray(part)).astype(np.uint64)
            key = _mix(key + np.uint64(streams.GOLDEN) + _mix(bits + np.uint64(streams.GOLDEN)))
    return Uniforms(key)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    for shift, factor in streams.SHIFTS:
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))


def _pose(draw: Uniforms, settings: ViewSettings) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each patch is mirrored left to right, mirrored top to bottom, and transposed after that: (B,) each.

    Flips come first, then 1, 2 or 3 quarter turns against the clock, each as likely: a turn is a mirroring of the columns
    and a transposition.
    """
    columns = draw[0] < settings.flip
    rows = draw[2] < settings.vertical_flip if settings.vertical_flip > 0 else np.zeros_like(columns)
    if settings.rotate90 == 0:
        return columns, rows, np.zeros_like(columns)
    turns = np.where(draw[3] < settings.rotate90, 1 + np.floor(3 * draw[4]), 0)
    return columns ^ np.isin(turns, (1, 2)), rows ^ np.isin(turns, (2, 3)), turns % 2 == 1


def crop_boxes(draw: Uniforms, side: int, area: tuple[float, float]) -> NDArray[np.int64]:
    """Boxes (B, 4) as x, y, width, height of RandomResizedCrop (Szegedy et al. 2015): area uniform, aspect log-uniform in
    3/4 .. 4/3; ten tries, then the largest centred square of at most the upper area."""
    count = len(draw[0])
    largest = int(side * min(1.0, area[1]) ** 0.5)
    middle = (side - largest) // 2
    box = np.tile(np.array([middle, middle, largest, largest], np.int64), (count, 1))
    open_ = np.ones(count, bool)
    for attempt in range(_CROP_TRIES):
        base = 100 + 4 * attempt
        wanted = (area[0] + (area[1] - area[0]) * draw[base]) * side * side
        aspect = np.exp(np.log(_ASPECT[0]) + (np.log(_ASPECT[1]) - np.log(_ASPECT[0])) * draw[base + 1])
        width = np.rint(np.sqrt(wanted * aspect)).astype(np.int64)
        height = np.rint(np.sqrt(wanted / aspect)).astype(np.int64)
        fits = open_ & (width > 0) & (height > 0) & (width <= side) & (height <= side)
        x = np.floor(draw[base + 2] * (side - width + 1)).astype(np.int64)
        y = np.floor(draw[base + 3] * (side - height + 1)).astype(np.int64)
        box[fits] = np.stack([x, y, width, height], axis=1)[fits]
        open_ &= ~fits
        if not open_.any():
            break
    return box


def cut_places(
    start: NDArray[np.int64], length: NDArray[np.int64], size: int, flipped: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """What ``cut_weights`` needs to cut [start, start + length) out of a side, resize it to ``size`` and mirror it where
    flipped: float64 (B, 5), as ``_Plan.cut`` has it."""
    step = length / size
    first = np.where(flipped, start + (size - 0.5) * step, start + 0.5 * step)
    support = np.maximum(step, 1.0)
    return np.stack([first, np.where(flipped, -step, step), -1 / support, start, start + length], axis=1)


def cut_weights(cut: Tensor, place: Tensor, pixel: Tensor) -> Tensor:
    """Rows of weights (B, size, side): a triangle about each centre, as wide as the scale where that shrinks (antialiased
    bilinear interpolation), and nothing outside the box.

    :param cut: float32 (B, 5), from :func:`cut_places`.    place, pixel: as ``_Plan`` has them.
    """
    first, step, slope, begin, end = cut[:, :, None, None].unbind(1)
    centre = torch.addcmul(first, place[:, None], step)
    weight = (pixel - centre).abs_().mul_(slope).add_(1).clamp_(min=0)
    weight = weight.mul_((pixel > begin) & (pixel < end))
    return weight.div_(weight.sum(dim=2, keepdim=True))


def settings_from(config: Any, patch_size: int) -> ViewSettings:
    """View settings from the options; sizes that are not set are 7/8 and 3/8 of the patch (224 and 96 of 256)."""
    return ViewSettings(
        view=config.view or round(patch_size * 7 / 8),
        corner=config.corner or round(patch_size * 3 / 8),
        crop=(config.crop_low, config.crop_high),
        corner_crop=(config.corner_crop_low, config.corner_crop_high),
        grayscale=config.grayscale,
        brightness=config.brightness,
        contrast=config.contrast,
        saturation=config.saturation,
        hue=config.hue,
        flip=config.flip,
        vertical_flip=config.vertical_flip,
        rotate90=config.rotate90,
        stain_scale=config.stain_scale,
        stain_shift=config.stain_shift,
    )
