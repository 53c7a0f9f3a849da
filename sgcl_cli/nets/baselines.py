"""Baselines without training: colour features, and architectures with random weights."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from sgcl_cli.nets.encoders import ENCODERS

RANDOM = "random:"
BINS = 8  # of a histogram, along each channel


class MeanColour(nn.Module):
    """Images (B, 3, H, W) in 0..1 -> their mean red, green and blue (B, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        """The mean over the pixels."""
        return x.mean(dim=(2, 3))


class ColourHistogram(nn.Module):
    """Images (B, 3, H, W) in 0..1 -> the share of pixels in each of 8 x 8 x 8 equal bins of RGB, blue fastest (B, 512)."""

    def forward(self, x: Tensor) -> Tensor:
        """Shares that sum to 1."""
        levels = (x.float() * BINS).long().clamp_(0, BINS - 1)
        bins = ((levels[:, 0] * BINS + levels[:, 1]) * BINS + levels[:, 2]).flatten(1)
        shares = torch.full(bins.shape, 1 / bins.shape[1], device=x.device)
        return torch.zeros(len(x), BINS**3, device=x.device).scatter_add_(1, bins, shares)


COLOURS: dict[str, type[nn.Module]] = {"mean-colour": MeanColour, "colour-histogram": ColourHistogram}


def is_baseline(name: str) -> bool:
    """Whether a name is a key of ``COLOURS``, or ``random:`` followed by an architecture of this package."""
    return name in COLOURS or (name.startswith(RANDOM) and name.removeprefix(RANDOM) in ENCODERS)


def build_baseline(name: str) -> nn.Module:
    """Build a baseline by its name; random weights come from torch's global generator."""
    return COLOURS[name]() if name in COLOURS else ENCODERS[name.removeprefix(RANDOM)]()


def definition_sha256(name: str) -> str:
    """A hash in place of that of the weights, for a colour baseline, which has none."""
    return hashlib.sha256(f"{name}, {BINS} bins".encode()).hexdigest()
