"""What SGCL asks of its base, which makes L_self.

Letters: N patches, B anchors, D size of v.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from sgcl_cli.method.negatives import Draws
from sgcl_cli.method.objective import Embedded
from sgcl_cli.method.settings import Settings

Slopes = list[tuple[Tensor, Tensor]]
"""What a number depends on, and its slope in that, of the same shape."""


class Base(ABC):
    """L_self, and what it remembers besides the bank of v.

    ``banked``: whether it needs the bank of v.    ``second``: whether it needs a second global view.
    ``followed``: whether networks that follow the trained ones embed that view.    ``bank_momentum``: share of the new row
    in a bank's move, where the options leave it open.    ``uniform_draws``: uniform draws from the bank in a step.
    ``candidates``: among how many L_self tells a patch's own entry.
    """

    banked: ClassVar[bool] = False
    second: ClassVar[bool] = False
    followed: ClassVar[bool] = False
    bank_momentum: ClassVar[float] = 0.5
    uniform_draws: int = 0
    candidates: int

    @abstractmethod
    def __init__(self, settings: Settings, *, dim: int, seed: int, device: torch.device) -> None: ...

    @classmethod
    def bytes_needed(cls, settings: Settings, *, dim: int) -> int:
        """Bytes of what it remembers besides the bank of v."""
        return 0

    @abstractmethod
    def loss(
        self, index_B: Tensor, query: Embedded, key: Embedded | None, draws: Draws, bank_ND: Tensor | None
    ) -> tuple[Tensor, Slopes]:
        """L_self over the batch without gradient, and the slopes of w_self L_self in what ``query`` has.

        :param bank_ND: the bank of v, where there is one.
        """

    @abstractmethod
    def commit(self, index_B: Tensor, new: Embedded) -> None:
        """Remember a batch, besides in the bank of v."""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, as the objective's: under names of its own."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that was found to fit."""
        assert not self.state_dict(), "a base that remembers something takes it up"
