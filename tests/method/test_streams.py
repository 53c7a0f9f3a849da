from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from sgcl_cli.method.streams import counters, generator, integers, key, strips, uniforms


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


def splitmix(state):
    """SplitMix64 in whole numbers of any length, as the paper's Java has it."""
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    bits = state
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ bits >> shift) * factor % 2**64
    return state, bits ^ bits >> 31


def test_uniforms_are_those_of_splitmix64():
    """The first outputs for seed 1234567 are published with the reference implementation in C."""
    state, published = 1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423]
    outputs = []
    for _ in published:
        state, bits = splitmix(state)
        outputs.append(bits)
    assert outputs == published
    found = uniforms(1234567, counters(torch.arange(3)))
    assert found.tolist() == [(bits >> 11) * 2.0**-53 for bits in published]


def test_integers_are_the_remainders_of_the_same_bits():
    state, outputs = 1234567, []
    for _ in range(4):
        state, bits = splitmix(state)
        outputs.append(bits - 2**64 if bits >= 2**63 else bits)
    below = torch.tensor([10, 1, 681_486, 2**40])
    found = integers(1234567, counters(torch.arange(4)), below).tolist()
    assert found == [bits % size for bits, size in zip(outputs, below.tolist(), strict=True)]
    counts = torch.bincount(integers(5, counters(torch.arange(100_000)), torch.tensor(7)), minlength=7)
    assert counts.numel() == 7
    assert float((counts - 100_000 / 7).abs().max()) < 5 * (100_000 / 7) ** 0.5


def test_a_key_chains_its_parts():
    def chain(*parts):
        found = 0
        for part in parts:
            found = splitmix((found + splitmix(part % 2**64)[1]) % 2**64)[1]
        return found

    assert [key(7, 3, index, 2) % 2**64 for index in (0, 5, 681_485)] == [chain(7, 3, i, 2) for i in (0, 5, 681_485)]
    several = ((0, 1), (1, 0), (0, 1, 0), (-1, 1), (0,))
    assert len({key(*parts) for parts in several}) == 5
    assert all(-(2**63) <= key(*parts) < 2**63 for parts in several)


def test_uniforms_are_even_and_independent_of_their_neighbours():
    u = uniforms(key(3, 4), counters(torch.arange(200_000)))
    assert float(u.min()) >= 0 and float(u.max()) < 1
    counts = torch.histc(u, 50, 0, 1)
    assert float((counts - 4_000).abs().max()) < 5 * 4_000**0.5
    assert abs(float(torch.corrcoef(torch.stack([u[1:], u[:-1]]))[0, 1])) < 5 / 200_000**0.5


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_draws_the_same_numbers():
    stream, position = torch.tensor([key(1, i) for i in range(64)])[:, None], torch.arange(500)
    got = uniforms(stream.cuda(), counters(position.cuda()))
    assert torch.equal(got.cpu(), uniforms(stream, counters(position)))
