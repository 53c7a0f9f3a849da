from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from sgcl_cli.method.streams import generator, strips


def draw(*position):
    return torch.rand(8, generator=generator(*position)).tolist()


def test_a_stream_repeats_and_differs_from_all_others():
    assert draw(0, "pool", 3) == draw(0, "pool", 3)
    others = [draw(1, "pool", 3), draw(0, "uniform", 3), draw(0, "pool", 4), draw(0, "pool", 3, 0), draw(0, "pool", 33)]
    assert all(other != draw(0, "pool", 3) for other in others)


def test_a_stream_leaves_the_global_state_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draw(0, "pool", 3)
    assert torch.equal(before, torch.get_rng_state())


@effort(max_examples=50, deadline=None)
@given(n=st.integers(1, 400), share=st.floats(0.001, 1), seed=st.integers(0, 1_000))
def test_strips_are_distinct_and_ascend(n, share, seed):
    size = max(1, int(n * share))
    index = strips(n, size, generator(seed, "strips"))
    assert len(index) == size
    assert bool((index[1:] > index[:-1]).all())
    assert 0 <= int(index[0]) <= int(index[-1]) < n


@pytest.mark.parametrize(("n", "size"), [(30, 20), (31, 7)])
def test_every_index_has_the_same_chance(n, size):
    counts = torch.zeros(n)
    for step in range(1_500):
        counts[strips(n, size, generator(0, "chance", step))] += 1
    expected = 1_500 * size / n
    assert float((counts - expected).abs().max()) < 5 * (expected * (1 - size / n)) ** 0.5
