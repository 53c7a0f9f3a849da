from __future__ import annotations

import numpy as np
import pytest
import torch

from sgcl_cli.probe.mil.bags import (
    Bags,
    Draw,
    batches,
    keys_of,
    mean_pool,
    row_statistics,
    segment_softmax,
    weighted_sum,
)

KEYS = keys_of(np.array(list("abcdef")))


def test_softmax_survives_scores_of_any_size():
    bags = Bags(torch.zeros(4, 1), torch.tensor([0, 3, 4]))
    weights = segment_softmax(torch.tensor([1e4, 1e4, -1e4, 3.0]), bags)
    assert weights.tolist() == [0.5, 0.5, 0.0, 1.0]


def test_softmax_and_sum_equal_loops_with_gradient(bags):
    scores = torch.randn(len(bags.rows), dtype=torch.double, requires_grad=True)
    values = bags.rows.double().requires_grad_()
    pooled = weighted_sum(segment_softmax(scores, bags), values, bags)
    expected = torch.stack([s.softmax(0) @ v for s, v in zip(bags.split(scores), bags.split(values), strict=True)])
    torch.testing.assert_close(pooled, expected)
    weight = torch.randn_like(expected)
    ours = torch.autograd.grad((pooled * weight).sum(), [scores, values])
    theirs = torch.autograd.grad((expected * weight).sum(), [scores, values])
    torch.testing.assert_close(ours, theirs)


def test_take_packs_in_the_order_asked_for_and_in_float32(bags):
    half = Bags(bags.rows.half(), bags.offsets)
    taken = half.take(np.array([5, 0, 2]))
    assert taken.lengths.tolist() == [5, 1, 3]
    assert taken.rows.dtype == torch.float32
    torch.testing.assert_close(taken.rows, torch.cat([half.rows[37:], half.rows[:1], half.rows[8:11]]).float())


def test_drawn_rows_are_distinct_and_of_their_bag(bags):
    taken = bags.take(np.arange(6), Draw(4, 0, 0, KEYS))
    assert taken.lengths.tolist() == [1, 4, 3, 1, 4, 4]
    for number, part in enumerate(taken.split(taken.rows)):
        own = bags.split(bags.rows)[number]
        where = [int((own == row).all(1).nonzero()) for row in part]
        assert where == sorted(set(where))


def test_a_draw_follows_seed_epoch_and_slide_alone(bags):
    def of(bag: int, seed: int = 0, epoch: int = 0, keys=KEYS) -> list[int]:
        return Draw(4, seed, epoch, keys).rows(bag, 25).tolist()

    assert of(4) == of(4) == Draw(4, 0, 0, KEYS[::-1].copy()).rows(1, 25).tolist()
    assert len({tuple(rows) for rows in (of(4), of(4, epoch=1), of(4, seed=1), of(5))}) == 4


def test_a_draw_is_even():
    count = np.zeros(12)
    for epoch in range(3000):
        count[Draw(4, 0, epoch, KEYS).rows(0, 12)] += 1
    assert np.abs(count - 1000).max() < 5 * np.sqrt(3000 * (1 / 3) * (2 / 3))


def test_batches_hold_their_limits():
    lengths = np.array([5, 5, 90, 5, 5, 5])
    found = [run.tolist() for run in batches(lengths, np.arange(6), most_bags=2, most_rows=20)]
    assert found == [[0, 1], [2], [3, 4], [5]]


def test_standardisation_comes_from_the_chosen_bags_only(bags):
    mean, scale = row_statistics(bags, np.array([1, 4]))
    rows = torch.cat([bags.rows[1:8], bags.rows[12:37]]).double()
    torch.testing.assert_close(mean, rows.mean(0))
    torch.testing.assert_close(scale, rows.std(0, correction=0))


def test_a_constant_feature_gets_scale_one():
    _, scale = row_statistics(Bags(torch.full((3, 2), 7.0), torch.tensor([0, 3])), np.array([0]))
    assert scale.tolist() == [1.0, 1.0]


def test_mean_pool(bags):
    pooled = mean_pool(bags.rows.numpy(), bags.offsets.numpy())
    np.testing.assert_allclose(pooled[1], bags.rows[1:8].mean(0), atol=1e-6)
    np.testing.assert_allclose(pooled[3], bags.rows[11], atol=1e-6)


def test_keys_are_of_names():
    assert len(set(KEYS.tolist())) == 6
    assert keys_of(np.array(["c"]))[0] == KEYS[2]
    assert keys_of(np.array(["7"]))[0] != pytest.approx(float(keys_of(np.array(["007"]))[0]))
