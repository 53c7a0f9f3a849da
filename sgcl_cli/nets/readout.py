"""The embedding of an encoder: which layer is read, and how its positions are pooled."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sgcl_cli.errors import ConfigError
from sgcl_cli.nets.resnet import ResNet
from sgcl_cli.nets.vit import VisionTransformer


class Readout(nn.Module):
    """Images (B, 3, H, W) -> embeddings (B, D).

    :param network: the module whose parameters compute ``features``.
    :param features: images -> maps (B, D, h, w), tokens (B, T, D) or vectors (B, D).
    :param pool: ``auto`` uses vectors unchanged, the mean of maps, and of tokens the class token, or their mean if there is
        none; ``cls``, ``mean`` and ``cls+mean`` (concatenated, 2 D) are for tokens, ``mean`` also for maps.
    :param prefix: (T, height, width) -> the number of tokens before those of the patches.
    :param has_class: whether the first of these is a class token.
    :param spatial: images -> maps or tokens, if ``features`` returns vectors.
    """

    def __init__(
        self,
        network: nn.Module,
        features: Callable[[Tensor], Tensor],
        pool: str,
        *,
        prefix: Callable[[int, int, int], int] = lambda *_: 1,
        has_class: bool = True,
        spatial: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.pool = pool
        self._features, self._prefix, self._has_class = features, prefix, has_class
        self._spatial = spatial or features

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> (B, D).

        :raises ConfigError: the output cannot be pooled in this way.
        """
        found = self._features(x)
        if found.ndim == 4 and self.pool in ("auto", "mean"):
            return found.mean(dim=(2, 3))
        if found.ndim == 3:
            return self._pool_tokens(found, self._prefix(found.shape[1], *x.shape[-2:]))
        if found.ndim == 2 and self.pool == "auto":
            return found
        kinds = {2: "one vector an image", 4: "maps without a class token"}
        raise ConfigError(
            f"--pool {self.pool}: the encoder gives {kinds.get(found.ndim, f'an array {tuple(found.shape)}')}",
            "use --pool auto, and an encoder that gives (B, D), tokens (B, T, D) or maps (B, D, h, w)",
        )

    def maps(self, x: Tensor) -> Tensor:
        """Square images (B, 3, H, H) -> the feature map before pooling, (B, D, h, h); the first cell is top left.

        :raises ConfigError: the encoder returns vectors, or tokens that do not form a square.
        """
        found = self._spatial(x)
        if found.ndim == 4:
            return found
        if found.ndim != 3:
            raise ConfigError("the encoder gives one vector an image and no map", "use an encoder with maps or tokens")
        tokens = found[:, self._prefix(found.shape[1], *x.shape[-2:]) :]
        side = math.isqrt(tokens.shape[1])
        if side**2 != tokens.shape[1]:
            raise ConfigError(
                f"the encoder gives {tokens.shape[1]} tokens an image, which are no square map",
                "use an encoder with maps, or whose tokens are a class token and a square",
            )
        return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)

    def _pool_tokens(self, tokens: Tensor, prefix: int) -> Tensor:
        classed = self._has_class and prefix > 0
        pool = ("cls" if classed else "mean") if self.pool == "auto" else self.pool
        if pool != "mean" and not classed:
            raise ConfigError(f"--pool {pool}: the encoder has no class token", "use --pool mean or auto")
        parts = [tokens[:, 0]] if "cls" in pool else []
        if "mean" in pool:
            parts.append(tokens[:, prefix:].mean(dim=1))
        return torch.cat(parts, dim=1)


def read_own(network: ResNet | VisionTransformer, layer: str | None, pool: str) -> Readout:
    """The readout of an encoder of this package.

    :param layer: ``layer1`` to ``layer4`` of a ResNet, or ``block1`` to ``block12`` of a vision transformer (the final norm
        applied); None for the last.
    :raises ConfigError: it has no such layer.
    """
    stem, last = ("layer", 4) if isinstance(network, ResNet) else ("block", len(network.blocks))
    number = last
    if layer is not None:
        names = {f"{stem}{n}": n for n in range(1, last + 1)}
        if layer not in names:
            raise ConfigError(f"the encoder has no layer '{layer}'", f"use {stem}1 to {stem}{last}")
        number = names[layer]
    if isinstance(network, ResNet):
        return Readout(network, lambda x: network.maps(x, number), pool)
    return Readout(network, lambda x: network.tokens(x, number), pool)
