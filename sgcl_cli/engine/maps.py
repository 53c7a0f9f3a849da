"""Feature maps of patches, and the predictions of a linear head for each pixel, without gradient."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from sgcl_cli.artefacts.checkpoint import EncoderCard
from sgcl_cli.engine.encode import resized
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.engine.views import normalise
from sgcl_cli.nets.readout import Readout


class FeatureMaps:
    """An encoder in evaluation mode on the runtime's device: whole patches to maps.

    Patches keep their size; if the card has a ``resize``, they are resized to the encoder's input.
    """

    def __init__(self, readout: Readout, card: EncoderCard, runtime: Runtime) -> None:
        self._card, self._runtime = card, runtime
        self._readout = readout.eval().to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, patches: Tensor) -> Tensor:
        """uint8 (B, H, H, 3) -> float32 (B, D, h, h) on the device."""
        images = patches.to(self._runtime.device)
        if self._card.resize is not None:
            images = resized(images, self._card.input_size, self._card.interpolation or "bilinear")
        images = images.permute(0, 3, 1, 2).float().div_(255)
        with torch.inference_mode(), self._runtime.autocast():
            maps: Tensor = self._readout.maps(normalise(images, self._card.mean, self._card.std))
        return maps.float()


def at_pixels(maps: Tensor, places: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    """Features of single pixels, by bilinear interpolation between the cells of a map, as in ``classes_of``.

    :param maps: (B, D, h, w). :param places: (B, M, 2) as row, column of patches of ``size`` pixels.
    :returns: float32 (B, M, D).
    """
    grid = torch.from_numpy((2 * places[..., ::-1] + 1) / size - 1).to(maps.device, torch.float32)
    found = grid_sample(maps, grid[:, None], mode="bilinear", padding_mode="border", align_corners=False)
    rows: NDArray[np.float32] = found[:, :, 0].permute(0, 2, 1).cpu().numpy()
    return rows


def classes_of(maps: Tensor, weight: NDArray[np.float64], bias: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    """The class with the highest score at each pixel, int64 (B, size, size); scores are bilinear between cells.

    :param maps: (B, D, h, w). :param weight: (D, K). :param bias: (K,), -inf for a class that is never predicted.
    """
    turn = torch.from_numpy(weight).to(maps.device, torch.float32)
    scores = interpolate(
        torch.einsum("bdhw,dk->bkhw", maps, turn), size=(size, size), mode="bilinear", align_corners=False
    )
    offset = torch.from_numpy(bias).to(maps.device, torch.float32)[:, None, None]
    result: NDArray[np.int64] = (scores + offset).argmax(1).cpu().numpy()
    return result
