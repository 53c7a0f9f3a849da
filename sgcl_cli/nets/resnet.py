"""Residual networks (He et al., CVPR 2016) under torchvision's parameter names, without the classification layer.

An encoder maps images float (B, 3, H, W), H and W at least 32, to h (B, Dh) after global average pooling. The weights do not
depend on the image size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions; ResNet-18 and -34."""

    expansion = 1

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(width_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in, H, W) -> (B, width, H / stride, W / stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return torch.relu_(out + identity)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (with the stride, as torchvision has it), 1 x 1 convolutions; ResNet-50."""

    expansion = 4

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(width_in, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in, H, W) -> (B, 4 width, H / stride, W / stride)."""
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return torch.relu_(out + identity)


def _shortcut(width_in: int, width_out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and width_in == width_out:
        return None
    return nn.Sequential(nn.Conv2d(width_in, width_out, 1, stride, bias=False), nn.BatchNorm2d(width_out))


class ResNet(nn.Module):
    """A residual network of four stages; ``embedding_size`` is Dh."""

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        width = 64
        for number, (depth, stage_width, stride) in enumerate(
            zip(depths, (64, 128, 256, 512), (1, 2, 2, 2), strict=True), 1
        ):
            blocks: list[nn.Module] = []
            for position in range(depth):
                blocks.append(block(width, stage_width, stride if position == 0 else 1))
                width = stage_width * block.expansion
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.embedding_size = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> h (B, Dh)."""
        return self.maps(x).mean(dim=(2, 3))

    def maps(self, x: Tensor, stages: int = 4) -> Tensor:
        """Images (B, 3, H, W) -> the output of stage ``stages``, (B, width, H / 2^(stages + 1), W / 2^(stages + 1))."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for number in range(1, stages + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return x


class Projector(nn.Module):
    """g: linear, ReLU, linear, without batch norm (design: 512-512-128).

    Initialised as in the published code: Kaiming normal, fan-in, biases 0 (docs/method.md, departures).
    """

    def __init__(self, embedding_size: int, projection: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(embedding_size, embedding_size)
        self.out = nn.Linear(embedding_size, projection)
        for layer in (self.hidden, self.out):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, h: Tensor) -> Tensor:
        """h (B, Dh) -> v (B, projection), not normalised."""
        v: Tensor = self.out(torch.relu(self.hidden(h)))
        return v


RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}
