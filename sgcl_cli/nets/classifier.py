"""An encoder with a linear classification layer, trained end to end."""

from __future__ import annotations

from torch import Tensor, nn

_INIT_STD = 0.01


class Classifier(nn.Module):
    """Images (B, 3, H, W) -> scores (B, K).

    :param encoder: images -> (B, ``width``).
    """

    def __init__(self, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(width, classes)
        nn.init.normal_(self.head.weight, std=_INIT_STD)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> scores (B, K)."""
        scores: Tensor = self.head(self.encoder(x))
        return scores
