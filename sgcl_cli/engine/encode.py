"""Batches through an encoder, no gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sgcl_cli.artefacts.checkpoint import EncoderCard
from sgcl_cli.engine.runtime import Runtime
from sgcl_cli.engine.views import normalise
from sgcl_cli.errors import ArtefactError
from sgcl_cli.nets.resnet import ENCODERS


class FrozenEncoder:
    """An encoder as its card says, in evaluation mode on the runtime's device.

    :raises ArtefactError: an unknown architecture, or weights that do not fit it.
    """

    def __init__(self, card: EncoderCard, state: dict[str, Tensor], runtime: Runtime) -> None:
        if card.name not in ENCODERS:
            raise ArtefactError(f"encoder '{card.name}' is not known", f"known: {', '.join(ENCODERS)}")
        self.card = card
        self.runtime = runtime
        model: nn.Module = ENCODERS[card.name]()
        try:
            model.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise ArtefactError(
                f"the weights do not fit {card.name}: {error}", "take both files from one run"
            ) from error
        self.model = model.eval().to(runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, patches: Tensor) -> NDArray[np.float32]:
        """uint8 (B, H, W, 3) -> float32 (B, Dh): a centre crop at the input size, never resized, so the resolution holds."""
        images = centre_crop(patches.to(self.runtime.device, non_blocking=True), self.card.input_size)
        with torch.inference_mode(), self.runtime.autocast():
            h: Any = self.model(normalise(images.permute(0, 3, 1, 2).float().div_(255), self.card.mean, self.card.std))
        result: NDArray[np.float32] = h.float().cpu().numpy()
        return result


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
