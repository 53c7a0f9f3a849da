"""The interface of a base, which computes L_self.

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
"""The tensors that a value depends on, each with the gradient of the value, of the same shape."""


class Base(ABC):
    """L_self, and its memory besides the bank of v.

    :cvar banked: whether it needs the bank of v.
    :cvar second: whether it needs a second global view.
    :cvar followed: whether key networks, which follow the trained ones by momentum, embed that view.
    :cvar bank_momentum: default share of the new row when a bank is updated.
    :ivar uniform_draws: uniform draws from the bank in a step.
    :ivar candidates: the number of entries among which L_self identifies a patch's own.
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
        """Bytes of its memory besides the bank of v."""
        return 0

    @abstractmethod
    def loss(
        self, index_B: Tensor, query: Embedded, key: Embedded | None, draws: Draws, bank_ND: Tensor | None
    ) -> tuple[Tensor, Slopes]:
        """L_self over the batch without gradient, and the slopes of w_self L_self with respect to tensors of ``query``.

        :param bank_ND: the bank of v, if there is one.
        """

    @abstractmethod
    def commit(self, index_B: Tensor, new: Embedded) -> None:
        """Update its memory with a batch; the bank of v is updated elsewhere."""

    def state_dict(self) -> dict[str, Any]:
        """Its memory, to be stored with that of the objective, so names must differ from those there."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state whose shapes were checked."""
        assert not self.state_dict(), "a base with a memory overrides load_state_dict"
