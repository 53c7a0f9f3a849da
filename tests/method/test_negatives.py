from __future__ import annotations

import pytest
import torch

from sgcl_cli.method.lists import Lists
from sgcl_cli.method.negatives import corner_draws, pool_draws, rank_quantiles, semi_hard, uniform_draws
from sgcl_cli.method.settings import Settings

N = 681_486


def quantiles(settings, n=N, steps=50):
    return torch.cat([rank_quantiles(0, step, settings, n) for step in range(steps)])


def test_uniform_draws_cover_the_bank_evenly():
    counts = torch.bincount(torch.cat([uniform_draws(0, step, 50, 1_000) for step in range(50)]), minlength=50)
    assert float((counts - 1_000).abs().max()) < 5 * 1_000**0.5
    assert not torch.equal(uniform_draws(0, 0, 50, 100), uniform_draws(0, 1, 50, 100))
    assert torch.equal(uniform_draws(3, 7, 50, 100), uniform_draws(3, 7, 50, 100))


def test_corner_banks_have_draws_of_their_own():
    draws = corner_draws(0, 0, 10_000, 64)
    assert draws.shape == (4, 64)
    assert len({tuple(row) for row in draws.tolist()}) == 4


def test_pool_is_the_bank_when_it_fits():
    assert torch.equal(pool_draws(0, 0, 100, 100), torch.arange(100))
    assert len(pool_draws(0, 0, 101, 100).unique()) == 100


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


def test_ranks_are_filled_with_eligible_entries_only(plain):
    n, index = 40, torch.tensor([3, 17])
    s = plain.coarse_rows(2, n, seed=0)
    positives = Lists.of(torch.tensor([0, 0, 1]), torch.tensor([5, 30, 2]), 2)
    u = torch.linspace(0, 0.999, 100, dtype=torch.float64)
    position, times = semi_hard(s, torch.arange(n), index, positives, u, 0.2)
    for b, out in enumerate([{3, 5, 30}, {17, 2}]):
        ranked = sorted((j for j in range(n) if j not in out), key=lambda j: (-float(s[b, j]), j))[:8]
        assert position[b].tolist() == ranked
        assert times[b].tolist() == torch.bincount((u * 8).long(), minlength=8).tolist()


def test_fewer_eligible_than_the_top_share_shrinks_the_ranks(plain):
    s = plain.coarse_rows(2, 10, seed=0)
    members = [j for j in range(10) if j not in (0, 4, 7)]
    everything = list(range(1, 10))
    positives = Lists.of(torch.tensor([0] * 7 + [1] * 9), torch.tensor(members + everything), 2)
    u = torch.linspace(0, 0.999, 60, dtype=torch.float64)
    position, times = semi_hard(s, torch.arange(10), torch.tensor([0, 0]), positives, u, 0.5)
    drawn = position[0][times[0] > 0].tolist()
    assert sorted(drawn) == [4, 7]
    assert float(times[0].sum()) == 60
    assert float(times[1].sum()) == 0


def test_ranks_of_a_pool_follow_the_ranks_of_the_bank():
    """A pool of a fifth: the true ranks of what is drawn average to the exact law's within 0.1 % of N."""
    n, size, settings = 20_000, 4_000, Settings()
    truth = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    none = Lists.empty(1, torch.device("cpu"))
    means = []
    for step in range(200):
        pool = pool_draws(0, step, n, size)
        u = rank_quantiles(0, step, settings, n)
        s = -(truth[pool].float() / n)[None]
        position, times = semi_hard(s, pool, torch.tensor([n + 1]), none, u, 0.2)
        ranks = truth[pool[position[0]]].double()
        exact = (u * (n // 5)).long().double().mean()
        means.append(float((ranks * times[0]).sum() / times[0].sum() - exact) / n)
    assert abs(sum(means) / len(means)) < 1e-3
