"""The convolutional patch embedding of CTransPath (Wang et al. 2022), which timm's Swin transformer takes as its ``embed_layer``.

Parameters have the names of the published weights (https://github.com/Xiyue-Wang/TransPath, ctran.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

_PATCH = 4  # pixels
_DOWNSAMPLE = re.compile(r"(^|\.)layers\.(\d+)\.downsample\.")


class ConvStem(nn.Module):
    """Two 3 x 3 convolutions of stride 2, each with batch norm and ReLU, and one of 1 x 1: maps of a quarter of the image's side.

    :param img_size: side of the images, pixels, or (height, width).
    :param embed_dim: C, the channels of the maps.
    :param norm_layer: makes the norm over the channels from their number.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = _PATCH,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: Callable[[int], nn.Module] | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        assert patch_size == _PATCH
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.img_size, self.patch_size = (height, width), (patch_size, patch_size)
        self.grid_size = (height // patch_size, width // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        widths = (in_chans, embed_dim // 8, embed_dim // 4)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        self.proj = nn.Sequential(*layers, nn.Conv2d(widths[-1], embed_dim, 1))
        self.norm = nn.Identity() if norm_layer is None else norm_layer(embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> (B, H / 4, W / 4, C)."""
        found: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return found


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a Swin transformer under the names of timm 0.9 and later, where a stage begins with its downsampling.

    Those of earlier versions end a stage with it: layers.0.downsample becomes layers.1.downsample.
    """
    found = [(name, _DOWNSAMPLE.search(name)) for name in state]
    if not any(match and match[2] == "0" for _, match in found):
        return dict(state)
    return {
        name if match is None else _DOWNSAMPLE.sub(rf"\1layers.{int(match[2]) + 1}.downsample.", name): state[name]
        for name, match in found
    }
