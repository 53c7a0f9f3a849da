"""The encoders of this package by name."""

from __future__ import annotations

from collections.abc import Callable

from sgcl_cli.nets.resnet import RESNETS, ResNet
from sgcl_cli.nets.vit import VITS, VisionTransformer


def _resnet(name: str) -> Callable[[], ResNet]:
    return lambda: ResNet(*RESNETS[name])


def _vit(name: str) -> Callable[[], VisionTransformer]:
    return lambda: VisionTransformer(*VITS[name])


ENCODERS: dict[str, Callable[[], ResNet | VisionTransformer]] = {
    **{name: _resnet(name) for name in RESNETS},
    **{name: _vit(name) for name in VITS},
}
