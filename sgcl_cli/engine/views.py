"""uint8 patches -> one global and four corner views, batched, on the device.

Every parameter of a view comes from a counter-based hash of (seed, epoch, patch index, view, parameter), so neither the
device, nor the batch, nor the worker that decoded the patch can matter. Crop, antialiased resize and flip are two matrix
products per view; the colour operations follow torchvision's definitions, in a random order per patch. What histology adds
(quarter turns, vertical flip, stain jitter) is off unless asked for, and draws from places of its own, so it moves nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sgcl_cli.engine.stain import jitter_stains

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
_ASPECT = (3 / 4, 4 / 3)
_CROP_TRIES = 10
_LUMA = (0.299, 0.587, 0.114)
_OPERATIONS = 4  # brightness, contrast, saturation, hue
_STAINS = 3  # haematoxylin, eosin, residual


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
    images = patches.permute(0, 3, 1, 2).to(torch.float32).div_(255)

    def draw(part: Tensor, view: int, area: tuple[float, float], size: int) -> Tensor:
        return _augment(part, uniforms(index, seed, epoch, view), area, size, settings)

    half = images.shape[-1] // 2
    quarters = [images[:, :, r : r + half, c : c + half] for r in (0, half) for c in (0, half)] if corners else []
    drawn = [draw(quarter, 1 + q, settings.corner_crop, settings.corner) for q, quarter in enumerate(quarters)]
    return Views(
        whole=draw(images, 0, settings.crop, settings.view),
        corners=torch.stack(drawn) if drawn else None,
        second=draw(images, 5, settings.crop, settings.view) if second else None,
    )


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
        bits = _mix(self._key + np.uint64(_GOLDEN * (position + 1) % 2**64))
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


_GOLDEN = 0x9E3779B97F4A7C15


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def uniforms(index: NDArray[np.int64], seed: int, epoch: int, view: int) -> Uniforms:
    """The stream of a view of each patch: a hash of (seed, epoch, index, view), position by position."""
    key = np.zeros(len(index), np.uint64)
    for part in (np.full(len(index), seed), np.full(len(index), epoch), index, np.full(len(index), view)):
        key = _mix(key + np.uint64(_GOLDEN) + _mix(part.astype(np.uint64) + np.uint64(_GOLDEN)))
    return Uniforms(key)


def _augment(images: Tensor, draw: Uniforms, area: tuple[float, float], size: int, settings: ViewSettings) -> Tensor:
    box = crop_boxes(draw, images.shape[-1], area)
    cut = _cut(images, box, size, *_pose(draw, settings))
    if settings.stain_scale > 0 or settings.stain_shift > 0:
        around = np.stack([2 * draw[30 + n] - 1 for n in range(2 * _STAINS)], axis=1)
        scale, shift = 1 + settings.stain_scale * around[:, :_STAINS], settings.stain_shift * around[:, _STAINS:]
        cut = jitter_stains(cut, scale, shift)
    gray = torch.from_numpy(draw[1] < settings.grayscale).to(cut.device).view(-1, 1, 1, 1)
    cut = torch.where(gray, luma(cut).expand_as(cut), cut)
    return normalise(jitter(cut, draw, settings))


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


def _cut(
    images: Tensor,
    box: NDArray[np.int64],
    size: int,
    mirrored: NDArray[np.bool_],
    upended: NDArray[np.bool_],
    transposed: NDArray[np.bool_],
) -> Tensor:
    """Cut boxes (B, 4) out of images, resize them to ``size`` and put them into their pose: (B, 3, size, size)."""
    side, device = images.shape[-1], images.device
    rows = resize_matrix(box[:, 1], box[:, 3], side, size, upended, device)
    columns = resize_matrix(box[:, 0], box[:, 2], side, size, mirrored, device)
    cut = rows.unsqueeze(1) @ images @ columns.unsqueeze(1).transpose(-1, -2)
    if not transposed.any():
        return cut
    return torch.where(torch.from_numpy(transposed).to(device).view(-1, 1, 1, 1), cut.transpose(-1, -2), cut)


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


def resize_matrix(
    start: NDArray[np.int64],
    length: NDArray[np.int64],
    side: int,
    size: int,
    flipped: NDArray[np.bool_],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Rows of weights (B, size, side) that cut [start, start + length), resize it to ``size`` and mirror it where flipped.

    The filter is a triangle, as wide as the scale where that shrinks: antialiased bilinear interpolation. Only a few
    numbers a patch travel to the device; the weights are made there.
    """
    scale = length / size
    numbers = np.stack([start, start + length, scale, np.maximum(scale, 1.0), flipped], axis=1).astype(np.float32)
    first, end, step, support, mirror = torch.from_numpy(numbers).to(device)[:, :, None, None].unbind(1)
    place = torch.arange(size, device=device, dtype=torch.float32)[None, :, None]
    place = torch.where(mirror > 0, size - 1 - place, place)
    pixel = torch.arange(side, device=device, dtype=torch.float32)[None, None]
    weight = pixel + 0.5 - first - (place + 0.5) * step
    weight = weight.abs_().div_(support).neg_().add_(1).clamp_(min=0)
    weight *= (pixel >= first) & (pixel < end)
    return weight.div_(weight.sum(dim=2, keepdim=True))


def luma(images: Tensor) -> Tensor:
    """0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), (B, 1, H, W)."""
    weights = torch.tensor(_LUMA, device=images.device, dtype=images.dtype).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def jitter(images: Tensor, draw: Uniforms, settings: ViewSettings) -> Tensor:
    """Brightness, contrast, saturation and hue, each by its own factor, in a random order per patch."""
    strengths = (settings.brightness, settings.contrast, settings.saturation)
    factors = [1 + strength * (2 * draw[10 + n] - 1) for n, strength in enumerate(strengths)]
    factors.append(settings.hue * (2 * draw[13] - 1))
    order = np.argsort(np.stack([draw[20 + n] for n in range(_OPERATIONS)]), axis=0)
    operations = (scale_brightness, scale_contrast, scale_saturation, turn_hue)
    used = [strength > 0 for strength in (*strengths, settings.hue)]
    for turn in range(_OPERATIONS):
        for which, operation in enumerate(operations):
            chosen = np.flatnonzero(order[turn] == which)
            if len(chosen) == 0 or not used[which]:
                continue
            rows = torch.from_numpy(chosen).to(images.device)
            factor = torch.from_numpy(factors[which][chosen].astype(np.float32)).to(images.device).view(-1, 1, 1, 1)
            images = images.index_copy(0, rows, operation(images.index_select(0, rows), factor))
    return images


def scale_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """x -> factor x, clamped to 0..1."""
    return (images * factor).clamp(0, 1)


def scale_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """x -> factor x + (1 - factor) mean luma of the image, clamped."""
    return _blend(images, luma(images).mean(dim=(2, 3), keepdim=True), factor)


def scale_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """x -> factor x + (1 - factor) luma of the pixel, clamped."""
    return _blend(images, luma(images), factor)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (images * factor + other * (1 - factor)).clamp(0, 1)


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Hue (HSV) turned by a share of the circle; value and saturation stay."""
    value = images.amax(dim=1)
    span = value - images.amin(dim=1)
    safe = torch.where(span == 0, torch.ones_like(span), span)
    red, green, blue = images.unbind(1)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sector = sector + 6 * turns.view(-1, 1, 1)
    channels = []
    for shift in (5.0, 3.0, 1.0):
        k = torch.remainder(sector + shift, 6)
        channels.append(value - span * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


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
