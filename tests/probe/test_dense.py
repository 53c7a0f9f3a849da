from __future__ import annotations

import numpy as np
import pytest

from sgcl_cli.probe import dense, linear
from sgcl_cli.probe.dense import Head


def test_dice_and_iou_of_literal_counts() -> None:
    truth = np.array([0, 0, 0, 1, 1, -1, 7, 2])
    predicted = np.array([0, 0, 1, 1, 0, 0, 0, 2])
    counts = dense.count(truth, predicted, 3)
    assert counts.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert [score.value for score in dense.dice(counts)] == pytest.approx([4 / 6, 2 / 4, 1])
    assert [score.value for score in dense.iou(counts)] == pytest.approx([2 / 4, 1 / 3, 1])
    assert dense.mean(dense.iou(counts)) == pytest.approx((0.5 + 1 / 3 + 1) / 3)


def test_a_class_that_is_nowhere_is_undefined_and_does_not_enter_the_mean() -> None:
    counts = np.array([[3, 0], [0, 0]])
    assert [score.value for score in dense.dice(counts)] == [1.0, None]
    assert dense.dice(counts)[1].reason == "neither there nor predicted"
    assert dense.mean(dense.dice(counts)) == 1.0
    assert dense.mean(dense.dice(np.zeros((2, 2), dtype=int))) is None


@pytest.mark.parametrize("present", [(0, 1), (0, 2), (0, 1, 2)])
def test_the_head_is_the_probe(present: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    labels = np.array(present)[np.arange(90) % len(present)]
    features = rng.normal(size=(90, 5)) * 3 + 1
    features[:, 0] += 4 * labels
    probe = linear.fit(features, labels, np.arange(90), np.array([], dtype=np.int64), classes=3)
    head = Head.of(probe)
    scores = features @ head.weight + head.bias
    share = np.exp(scores - scores.max(1, keepdims=True))
    np.testing.assert_allclose(share / share.sum(1, keepdims=True), probe(features), atol=1e-9)
    absent = np.setdiff1d(np.arange(3), present)
    assert np.isneginf(head.bias[absent]).all()


def test_groups_are_left_out_whole_and_once() -> None:
    groups = np.array(["a", "b", "a", "c", "d", "b"])
    for folds, many in ((2, 2), (5, 4)):
        parts = dense.left_out(groups, folds, seed=3)
        assert len(parts) == many
        assert sorted(np.concatenate(parts).tolist()) == list(range(6))
        for one in parts:
            rest = np.setdiff1d(np.arange(6), one)
            assert not set(groups[one]) & set(groups[rest])
