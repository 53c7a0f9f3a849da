"""NPID (Wu, Xiong, Yu, Lin, CVPR 2018): the keys are rows of the bank, drawn uniformly."""

from __future__ import annotations

import torch
from torch import Tensor

from sgcl_cli.method.bases.base import Base, Slopes
from sgcl_cli.method.instance import instance_loss
from sgcl_cli.method.negatives import Draws
from sgcl_cli.method.objective import Embedded
from sgcl_cli.method.settings import Settings
from sgcl_cli.method.similarity import rows_of


class Npid(Base):
    """L_self = -log( e^{v.m_i/tau} / (e^{v.m_i/tau} + sum_{k in K} e^{v.m_k/tau}) )."""

    banked = True

    def __init__(self, settings: Settings, *, dim: int, seed: int, device: torch.device) -> None:
        self._temperature, self._weight = settings.temperature, settings.weight_self
        self.uniform_draws = settings.uniform_negatives if settings.weight_self > 0 else 0
        self.candidates = 1 + settings.uniform_negatives

    def loss(
        self, index_B: Tensor, query: Embedded, key: Embedded | None, draws: Draws, bank_ND: Tensor | None
    ) -> tuple[Tensor, Slopes]:
        """See ``Base``."""
        assert bank_ND is not None
        own_BD, row_KD = rows_of(bank_ND, index_B), rows_of(bank_ND, draws.uniform)
        loss, slope_BD = instance_loss(
            query.v.float(),
            own_BD,
            index_B,
            row_KD,
            draws.uniform,
            temperature=self._temperature,
            weight=self._weight,
        )
        return loss, [(query.v, slope_BD)]

    def commit(self, index_B: Tensor, new: Embedded) -> None:
        """Do nothing: the bank of v is its only memory."""
