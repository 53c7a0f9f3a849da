from __future__ import annotations

import math

import torch

from sgcl_cli.method.settings import Settings
from sgcl_cli.method.sgcl import SGCL
from sgcl_cli.stages.pretrain_warnings import about_corpus, about_end, about_epoch


def _objective(step: float = 1.0, n: int = 400, **changes: object) -> SGCL:
    cell = torch.stack([torch.arange(n) % 20, torch.arange(n) // 20], 1).double() * step
    settings, _ = Settings(**changes).resolve(n, 10, 8)
    return SGCL(settings, torch.zeros(n, dtype=torch.int64), cell, dim=8, hidden_dim=8, seed=0, device="cpu")


def test_a_sound_corpus_gives_no_warning() -> None:
    assert about_corpus(_objective()) == []


def test_patches_without_neighbours() -> None:
    (warning,) = about_corpus(_objective(step=3.5))
    assert warning.startswith(
        "100 % of the patches have no neighbour within 3 patches on their slide: is the grid wrong?"
    )
    assert about_corpus(_objective(step=3.5, radius=4.0)) == []
    assert about_corpus(_objective(step=3.5, expansion=False)) == []
    assert about_corpus(_objective(step=3.5, weight_spatial=0.0)) == []


def test_too_few_patches_for_the_clusters() -> None:
    (warning,) = about_corpus(_objective(clusters=100))
    assert (
        warning.startswith("400 patches are too few for 100 clusters, 4.0 patches each") and "--clusters 6" in warning
    )
    assert about_corpus(_objective(clusters=40)) == []
    assert about_corpus(_objective(clusters=100, propagation=False)) == []


def test_collapse_by_spread_or_by_rank() -> None:
    healthy = {"spread": 0.6, "effective_rank_v": 40.0}
    assert about_epoch(healthy) == [] and about_epoch({}) == []
    (spread,) = about_epoch({**healthy, "spread": 0.01})
    assert spread.startswith("the embeddings have collapsed: spread 0.010") and "effective rank 40.0" in spread
    (rank,) = about_epoch({**healthy, "effective_rank_v": 1.2})
    assert "effective rank 1.2" in rank


def test_a_self_term_at_the_logarithm_of_its_candidates() -> None:
    settings, _ = Settings().resolve(400, 10, 8)
    assert about_end(settings, {"self": math.log(400) - 0.5}) == []
    (warning,) = about_end(settings, {"self": math.log(400) - 0.01})
    assert "ln(400) = 5.991 means that it learned nothing" in warning
    moco, _ = Settings(base="moco", queue=80).resolve(400, 10, 8)
    assert about_end(moco, {"self": math.log(400)}) == []
    assert "ln(81)" in about_end(moco, {"self": math.log(81)})[0]
    without, _ = Settings(weight_self=0.0).resolve(400, 10, 8)
    assert about_end(without, {"self": math.log(400)}) == []
