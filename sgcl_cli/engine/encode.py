"""Encoding of batches without gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sgcl_cli.artefacts.checkpoint import EncoderCard
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.engine.views import normalise
from sgcl_cli.errors import ArtefactError


class FrozenEncoder:
    """An encoder in evaluation mode on the runtime's device, with the preprocessing of its card.

    :param model: images (B, 3, input, input), normalised, -> (B, Dh).
    """

    def __init__(self, card: EncoderCard, model: nn.Module, runtime: Runtime) -> None:
        self.card = card
        self.runtime = runtime
        self.model = model.eval().to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, patches: Tensor) -> NDArray[np.float32]:
        """uint8 (B, H, W, 3) -> float32 (B, Dh).

        Patches are resized if the card says so; then the centre crop of the input size is taken.
        """
        return self.begin(patches)()

    def begin(self, patches: Tensor) -> Callable[[], NDArray[np.float32]]:
        """Start to encode a batch, which must not change until the returned function is called; a GPU works asynchronously.

        :raises ArtefactError: the model does not return one row per image.
        """
        images = patches.to(self.runtime.device, non_blocking=True)
        if self.card.resize is not None:
            images = resized(images, self.card.resize, self.card.interpolation or "bilinear")
        images = centre_crop(images, self.card.input_size)
        with torch.inference_mode(), self.runtime.autocast():
            h: Any = self.model(normalise(images.permute(0, 3, 1, 2).float().div_(255), self.card.mean, self.card.std))
        expected = (len(patches), self.card.embedding_size)
        if tuple(h.shape) != expected:
            raise ArtefactError(
                f"{self.card.name} gives {tuple(h.shape)} for {len(patches)} images, not {expected}",
                "make its module return one row an image",
            )

        def result() -> NDArray[np.float32]:
            rows: NDArray[np.float32] = h.float().cpu().numpy()
            return rows

        return result


def resized(patches: Tensor, size: int, interpolation: str) -> Tensor:
    """uint8 (B, H, W, 3) with the shorter side resized to ``size``, antialiased as PIL does it, to one grey level: rows first,
    then columns, whole grey levels after each.

    :param interpolation: bilinear or bicubic.
    """
    height, width = patches.shape[1:3]
    short = min(height, width)
    if short == size:
        return patches
    rows, columns = size * height // short, size * width // short
    planes = patches.permute(0, 3, 1, 2).float()
    for sides in ((height, columns), (rows, columns)):
        planes = interpolate(planes, size=sides, mode=interpolation, antialias=True).round_().clamp_(0, 255)
    return planes.to(torch.uint8).permute(0, 2, 3, 1)


def centre_crop(patches: Tensor, size: int) -> Tensor:
    """The central (B, size, size, 3) of (B, H, W, 3).

    :raises ArtefactError: the patches are smaller.
    """
    height, width = patches.shape[1:3]
    if min(height, width) < size:
        raise ArtefactError(
            f"images of {width} x {height} pixels are smaller than the encoder's input of {size}",
            "give larger patches, or an encoder that was trained on smaller ones",
        )
    top, left = (height - size) // 2, (width - size) // 2
    return patches[:, top : top + size, left : left + size]
