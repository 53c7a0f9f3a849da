from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.study import purity, table
from sgcl_cli.method.sgcl import SGCL, Settings


class TestPurity:
    def test_shares_are_those_of_a_plain_count(self) -> None:
        """One slide of 6 x 4 patches, its left half of one class, two unknown; every lattice neighbour by distance."""
        cell = torch.tensor([(x, y) for y in range(4) for x in range(6)], dtype=torch.float64)
        label = torch.tensor([int(x >= 3) for y in range(4) for x in range(6)])
        label[[0, 9]] = -1
        settings, _ = Settings(radius=1.5, negatives=8).resolve(24, 2, 4)
        objective = SGCL(settings, torch.zeros(24, dtype=torch.int64), cell, dim=8, hidden_dim=8, seed=1, device="cpu")
        found = purity.shares_of_kind(objective, purity.Kinds(label, torch.zeros(24, dtype=torch.int64)), step=3)[0]
        same = pairs = 0
        for i in range(24):
            for j in range(24):
                near = 0 < float((cell[i] - cell[j]).norm()) < 1.5
                if near and label[i] >= 0 and label[j] >= 0:
                    pairs, same = pairs + 1, same + int(label[i] == label[j])
        assert found["spatial"] == {"same": same / pairs, "pairs": pairs}
        assert found["propagated"] == {"same": None, "pairs": 0}
        assert 0 < found["negatives"]["pairs"] <= 22 * 8
        assert found["chance"]["same"] == pytest.approx((11 * 10 + 11 * 10) / (22 * 21))

    def test_what_the_radius_decides_needs_no_training(self, make_patches: Callable[..., Path]) -> None:
        """Slides of 4 x 1 patches, two of each class: of the six ordered neighbours four are of one class."""
        patches = make_patches(slides={"a": (4, 1), "b": (4, 1)})
        (near, far) = purity.by_radius(patches, [1.1, 20])
        assert near["schemes"] == {
            "coarse/fine": {
                "spatial": {"same": 8 / 12, "pairs": 12},
                "propagated": {"same": None, "pairs": 0},
                "negatives": {"same": None, "pairs": 0},
                "chance": {"same": pytest.approx(2 * 4 * 3 / (8 * 7)), "pairs": 56},
            }
        }
        assert far["schemes"]["coarse/fine"]["spatial"] == {"same": 8 / 24, "pairs": 24}
        assert "| 1.1 | coarse/fine | 0.667 of 12 | 0.429 of 56 |" in table.radii([near, far])

    def test_schemes_are_apart(self) -> None:
        cell = torch.tensor([(x, 0) for x in range(4)] * 2, dtype=torch.float64)
        slide = torch.tensor([0] * 4 + [1] * 4)
        settings, _ = Settings(radius=1.5, negatives=64, top_share=1.0).resolve(8, 2, 4)
        objective = SGCL(settings, slide, cell, dim=8, hidden_dim=8, seed=1, device="cpu")
        kinds = purity.Kinds(torch.tensor([0, 0, 0, 0, 2, 2, 2, 2]), slide)
        found = purity.shares_of_kind(objective, kinds, step=3)
        assert [found[scheme]["negatives"]["same"] for scheme in (0, 1)] == [1.0, 1.0]
