from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from sgcl_cli.probe.mil.bags import Bags
from sgcl_cli.probe.mil.model import BagModel
from sgcl_cli.probe.mil.models import build


@pytest.fixture
def bags() -> Bags:
    lengths = torch.tensor([1, 7, 3, 1, 25, 5])
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(int(lengths.sum()), 6, generator=generator)
    return Bags(rows, torch.nn.functional.pad(lengths.cumsum(0), (1, 0)))


@pytest.fixture
def make(bags) -> Callable[..., BagModel]:
    def make(name: str, outputs: int = 3, hidden: int = 8, dropout: float = 0.5) -> BagModel:
        torch.manual_seed(0)
        mean, scale = bags.rows.mean(0), bags.rows.std(0)
        return build(name, mean, scale, outputs=outputs, hidden=hidden, dropout=dropout)

    return make


@pytest.fixture
def labels() -> np.ndarray:
    return np.array([0, 1, 2, 0, 1, 2])
