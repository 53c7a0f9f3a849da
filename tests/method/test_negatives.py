from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sgcl_cli.method.negatives import RankLaw, Sampler, semi_hard
from sgcl_cli.method.settings import Settings
from sgcl_cli.method.streams import counters, integers, key

N = 681_486


def rank_quantiles(seed, step, settings, n):
    draws = 4_096 if settings.negatives is None else settings.negatives
    law, stream = RankLaw(replace(settings, negatives=draws, top_share=0.2), n), key(seed, step)
    return law(integers(stream, counters(torch.arange(len(law.below))), law.below), stream)


def quantiles(settings, n=N, steps=50):
    return torch.cat([rank_quantiles(0, step, settings, n) for step in range(steps)])


def sampler(n, seed=0, **changes):
    return Sampler(Settings(**changes).resolve(n, 10, 8)[0], n, seed)


def test_uniform_draws_cover_the_bank_evenly():
    draws = sampler(51, uniform_negatives=50)
    counts = torch.bincount(torch.cat([draws.at(step).uniform for step in range(1_020)]), minlength=51)
    assert counts.numel() == 51
    assert float((counts - 1_000).abs().max()) < 5 * 1_000**0.5
    assert not torch.equal(draws.at(0).uniform, draws.at(1).uniform)
    assert torch.equal(sampler(51, 3).at(7).uniform, sampler(51, 3).at(7).uniform)
    assert not torch.equal(sampler(51, 3).at(7).uniform, sampler(51, 4).at(7).uniform)


def test_corner_banks_have_draws_of_their_own():
    draws = sampler(10_000, uniform_negatives=256).at(0)
    assert draws.corners.shape == (4, 64)
    assert len({tuple(row) for row in draws.corners.tolist()}) == 4
    assert draws.uniform.shape == (256,)


def test_pool_is_the_bank_when_it_fits():
    assert torch.equal(sampler(100, pool=100).at(0).pool, torch.arange(100))
    pool = sampler(101, pool=100).at(0).pool
    assert len(pool.unique()) == 100
    assert torch.equal(pool, pool.sort().values)


def test_every_patch_has_the_same_chance_to_be_in_the_pool():
    draws, steps = sampler(31, pool=7), 2_000
    counts = torch.bincount(torch.cat([draws.at(step).pool for step in range(steps)]), minlength=31)
    expected = steps * 7 / 31
    assert float((counts - expected).abs().max()) < 5 * (expected * (1 - 7 / 31)) ** 0.5


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, {"uniform", "corners", "pool", "quantile"}),
        ({"weight_spatial": 0.0, "weight_inner": 0.0}, {"uniform"}),
        ({"base": "moco", "weight_inner": 0.0}, {"pool", "quantile"}),
        ({"weight_self": 0.0, "weight_spatial": 0.0}, {"corners"}),
    ],
)
def test_only_what_is_used_is_drawn(changes, kept):
    draws = sampler(50, pool=20, **changes).at(0)
    assert {name for name in ("uniform", "corners", "pool", "quantile") if getattr(draws, name).numel()} == kept


def test_beta_ranks_have_their_mean_at_5_percent_and_their_spread():
    u = quantiles(Settings())
    assert u.numel() == 50 * 4_096
    assert float(0.2 * u.mean()) == pytest.approx(0.05, abs=2e-4)
    assert float(u.var()) == pytest.approx(5 * 15 / (20**2 * 21), rel=0.02)
    assert 0 <= float(u.min()) <= float(u.max()) < 1


@pytest.mark.parametrize(("a", "b"), [(5.0, 15.0), (15.0, 5.0), (1.0, 1.0), (2.5, 7.25)])
def test_beta_law_matches_torchs(a, b):
    """Largest distance between two distribution functions: 0.5 % is the 1 % point for samples of this size."""
    u = quantiles(Settings(beta_a=a, beta_b=b)).sort().values
    torch.manual_seed(0)
    reference = torch.distributions.Beta(a, b).sample((u.numel(),)).double().sort().values
    below = torch.searchsorted(reference, u) / u.numel()
    assert float((below - torch.arange(u.numel()) / u.numel()).abs().max()) < 0.005


def test_uniform_law():
    u = quantiles(Settings(negative_law="uniform"))
    assert float(u.mean()) == pytest.approx(0.5, abs=3e-3)


def test_hardest_are_the_first_ranks():
    u = rank_quantiles(0, 0, Settings(negative_law="hardest", negatives=300), 10_000)
    assert (u * 2_000).long().tolist() == list(range(300))
    u = rank_quantiles(0, 0, Settings(negative_law="hardest"), 100)
    assert (u * 20).long().tolist() == list(range(20))


def test_as_released_is_stretched_and_never_repeats_a_rank():
    u = rank_quantiles(0, 0, Settings(as_released=True), N)
    ranks = (u * (N // 5)).long()
    assert len(ranks.unique()) == len(ranks) == 4_096
    mean = quantiles(Settings(as_released=True), steps=100).mean()
    assert float(0.2 * mean) == pytest.approx(0.065, abs=1.5e-3)


def test_as_released_is_capped_at_the_ranks_there_are():
    u = rank_quantiles(0, 0, Settings(as_released=True), 200)
    ranks = (u * 40).long().tolist()
    assert len(ranks) == len(set(ranks)) <= 40


def by_rank(s, pool, out, u, share, *, whole):
    return semi_hard(s, pool, out, u, share, whole=whole)


@pytest.mark.parametrize("whole", [True, False])
def test_ranks_are_filled_with_eligible_entries_only(plain, whole):
    n, s = 40, plain.coarse_rows(2, 40, seed=0)
    out = torch.tensor([[3, 5, 30, 5], [17, 2, 17, 17]])
    u = torch.linspace(0, 0.999, 100, dtype=torch.float64)
    position, drawn = by_rank(s, torch.arange(n), out, u, 0.2, whole=whole)
    assert drawn.tolist() == [1, 1]
    for b, left_out in enumerate(out.tolist()):
        ranked = sorted((j for j in range(n) if j not in left_out), key=lambda j: (-float(s[b, j]), j))[:8]
        assert position[b].tolist() == [ranked[int(rank)] for rank in (u * 8).long()]


def test_what_is_not_in_the_pool_leaves_nothing_out(plain):
    pool, s = torch.tensor([2, 4, 9, 30]), plain.unit_rows(1, 4, seed=0)
    out = torch.tensor([[1, 3, 9, 31, 500]])
    position, _ = by_rank(s, pool, out, torch.linspace(0, 0.999, 9, dtype=torch.float64), 1.0, whole=False)
    drawn = pool[position[0]].tolist()
    assert sorted(set(drawn)) == [2, 4, 30]
    assert len(drawn) == 9


def test_fewer_eligible_than_the_top_share_shrinks_the_ranks(plain):
    s = plain.coarse_rows(2, 10, seed=0)
    out = torch.tensor([[j for j in range(10) if j not in (4, 7)] + [0, 0], list(range(10))])
    u = torch.linspace(0, 0.999, 60, dtype=torch.float64)
    position, drawn = by_rank(s, torch.arange(10), out, u, 0.5, whole=True)
    assert sorted(set(position[0].tolist())) == [4, 7]
    assert len(position[0]) == 60
    assert drawn.tolist() == [1, 0]


@pytest.mark.parametrize(("n", "size"), [(20_000, 4_000), (400_000, 16_384)])
def test_ranks_of_a_pool_follow_the_ranks_of_the_bank(n, size):
    """The true ranks of what a pool gives average to the exact law's within 0.1 % of N."""
    draws = sampler(n, pool=size)
    truth = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    means = []
    for step in range(200):
        drawn = draws.at(step)
        pool, u = drawn.pool, drawn.quantile
        s = -(truth[pool].float() / n)[None]
        position, _ = by_rank(s, pool, torch.tensor([[n + 1]]), u, 0.2, whole=False)
        exact = (u * (n // 5)).long().double().mean()
        means.append(float(truth[pool[position[0]]].double().mean() - exact) / n)
    assert abs(sum(means) / len(means)) < 1e-3
