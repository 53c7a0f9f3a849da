from __future__ import annotations

import torch
from torch.nn.functional import normalize

from sgcl_cli.method import gallery as module
from sgcl_cli.method import sets
from sgcl_cli.method.gallery import anchors, gallery
from sgcl_cli.method.settings import Settings
from sgcl_cli.method.sgcl import SGCL


def _objective(**changes: object) -> tuple[SGCL, torch.Tensor]:
    slide = torch.arange(3).repeat_interleave(20)
    cell = torch.stack([torch.arange(20) % 5, torch.arange(20) // 5], 1).double().repeat(3, 1)
    settings, _ = Settings(clusters=4, clusterings=1, negatives=64, **changes).resolve(60, 5, 8)
    objective = SGCL(settings, slide, cell, dim=8, hidden_dim=12, seed=4, device="cpu")
    return objective, slide


def test_anchors_are_spread_over_slides_and_have_neighbours() -> None:
    objective, slide = _objective()
    chosen = anchors(objective, slide, 3)
    assert sorted(slide[chosen].tolist()) == [0, 1, 2]
    assert chosen == anchors(objective, slide, 3)
    index = torch.tensor(chosen)
    assert min(sets.sizes(objective.spatial(index), index).tolist()) == 19
    assert len(anchors(objective, slide, 5)) == 5 and len(anchors(objective, slide, 60)) <= 60


def test_the_examples_are_what_the_objective_selects_in_order_of_similarity() -> None:
    objective, _ = _objective()
    objective.refit(1)
    before = [row.clone() for row in (objective.bank_v, objective.bank_h)]
    first, second = gallery(objective, [7, 33], step=5, most=4)
    v = objective.bank_v
    assert (first.anchor, second.anchor) == (7, 33)
    index = torch.tensor([7, 33])
    chosen = objective.select(index, v[index], objective.bank_h[index], objective.sampler.at(5))
    for b, examples in enumerate((first, second)):
        for shown, lists in ((examples.spatial, chosen.spatial), (examples.propagated, chosen.propagated)):
            members = sets.members(lists, index, b).tolist()
            ordered = sorted(members, key=lambda j: -float(v[examples.anchor] @ v[j]))
            assert shown.index.tolist() == ordered[:4] and shown.total == len(members)
        assert examples.propagated.total > 0
        everyone = sorted(set(range(60)) - {examples.anchor}, key=lambda j: -float(v[examples.anchor] @ v[j]))
        assert examples.nearest.index.tolist() == everyone[:4]
        positives = set(sets.members(chosen.positives, index, b).tolist())
        by_rank = chosen.position[b][objective.sampler.at(5).quantile.argsort()]
        drawn = list(dict.fromkeys(chosen.pool[by_rank].tolist()))
        assert examples.negatives.total == len(drawn) and not positives & set(drawn)
        assert examples.negatives.index.tolist()[0] == drawn[0] and examples.negatives.index.tolist()[-1] == drawn[-1]
        for shown in (examples.spatial, examples.propagated, examples.negatives, examples.nearest):
            torch.testing.assert_close(shown.similarity, v[shown.index] @ v[examples.anchor])
    assert torch.equal(before[0], objective.bank_v) and torch.equal(before[1], objective.bank_h)


def test_nearest_across_blocks(monkeypatch) -> None:
    objective, _ = _objective()
    whole = gallery(objective, [0, 59], step=0, most=6)
    monkeypatch.setattr(module, "_BLOCK", 7)
    parts = gallery(objective, [0, 59], step=0, most=6)
    assert [c.nearest.index.tolist() for c in whole] == [c.nearest.index.tolist() for c in parts]


def test_without_a_spatial_term_there_are_only_nearest_ones() -> None:
    objective, slide = _objective(weight_spatial=0.0)
    objective.bank_v.copy_(normalize(torch.ones(60, 8), dim=1))
    (examples,) = gallery(objective, anchors(objective, slide, 1), step=0, most=3)
    assert examples.spatial.total == examples.propagated.total == examples.negatives.total == 0
    assert len(examples.nearest.index) == 3


def test_before_the_first_clusters_nothing_is_propagated() -> None:
    objective, _ = _objective()
    (examples,) = gallery(objective, [3], step=0, most=3)
    assert examples.propagated.total == 0 and examples.spatial.total > 0
