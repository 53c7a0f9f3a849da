"""MoCo v2 (Chen, Fan, Girshick, He, 2020): keys by momentum networks, and a queue of earlier keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sgcl_cli.method.bank import Queue
from sgcl_cli.method.bases.base import Base, Slopes
from sgcl_cli.method.instance import instance_loss
from sgcl_cli.method.negatives import Draws
from sgcl_cli.method.objective import Embedded
from sgcl_cli.method.settings import Settings


class Moco(Base):
    """L_self with the key of a patch's second view as the positive, and the queue as the negatives."""

    second = True
    followed = True
    bank_momentum = 1.0

    def __init__(self, settings: Settings, *, dim: int, seed: int, device: torch.device) -> None:
        self._temperature, self._weight = settings.temperature, settings.weight_self
        self.candidates = 1 + settings.queue
        self.queue = Queue(settings.queue, dim, seed, device)

    @classmethod
    def bytes_needed(cls, settings: Settings, *, dim: int) -> int:
        """See ``Base``."""
        return 4 * dim * settings.queue

    def loss(
        self, index_B: Tensor, query: Embedded, key: Embedded | None, draws: Draws, bank_ND: Tensor | None
    ) -> tuple[Tensor, Slopes]:
        """See ``Base``."""
        assert key is not None, "the moco base needs the keys of the second view"
        loss, slope_BD = instance_loss(
            query.v.float(),
            key.v.float(),
            index_B,
            self.queue.row_QD,
            self.queue.index_Q,
            temperature=self._temperature,
            weight=self._weight,
        )
        return loss, [(query.v, slope_BD)]

    def commit(self, index_B: Tensor, new: Embedded) -> None:
        """Push the keys to the queue."""
        self.queue.push(index_B, new.v)

    def state_dict(self) -> dict[str, Any]:
        """See ``Base``."""
        return {
            "queue_rows": self.queue.row_QD,
            "queue_index": self.queue.index_Q,
            "queue_head": self.queue.head,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See ``Base``."""
        self.queue.row_QD.copy_(state["queue_rows"])
        self.queue.index_Q.copy_(state["queue_index"])
        self.queue.head = int(state["queue_head"])
