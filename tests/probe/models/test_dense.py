from __future__ import annotations

import numpy as np
import pytest

from sgcl_cli.probe.models import dense, linear
from sgcl_cli.probe.models.dense import Head
from sgcl_cli.probe.scores.intervals import interval


def test_dice_and_iou_of_literal_counts() -> None:
    truth = np.array([0, 0, 0, 1, 1, -1, 7, 2])
    predicted = np.array([0, 0, 1, 1, 0, 0, 0, 2])
    counts = dense.count(truth, predicted, 3)
    assert counts.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    scores = dense.scores(counts)
    assert [score.value for score in scores["dice"]] == pytest.approx([4 / 6, 2 / 4, 1])
    assert [score.value for score in scores["iou"]] == pytest.approx([2 / 4, 1 / 3, 1])
    assert dense.mean(scores["iou"]).value == pytest.approx((0.5 + 1 / 3 + 1) / 3)


def test_a_class_that_is_nowhere_is_undefined_and_does_not_enter_the_mean() -> None:
    counts = np.array([[3, 0], [0, 0]])
    dice = dense.scores(counts)["dice"]
    assert [score.value for score in dice] == [1.0, None]
    assert dice[1].reason == "neither there nor predicted"
    assert dense.mean(dice).value == 1.0
    assert dense.mean(dense.scores(np.zeros((2, 2), dtype=int))["dice"]).value is None


def patients(many: int, seed: int = 0) -> np.ndarray:
    """Pixels (G, 2, 2) of patients who differ in size and difficulty."""
    rng = np.random.default_rng(seed)
    return rng.integers(1, 60, (many, 2, 2)) + np.eye(2, dtype=int) * rng.integers(0, 300, (many, 1, 1))


def test_intervals_are_of_pixels_of_patients_drawn_together() -> None:
    counts = patients(14)
    found = dense.resampled(counts, 60, 3)
    drawn = np.random.default_rng([3, 6]).multinomial(13, np.full(14, 1 / 14), 60)
    for number, times in enumerate(drawn):
        total = sum(many * one for many, one in zip(times, counts, strict=True))
        for metric, scores in dense.scores(total).items():
            expected = [*(score.value for score in scores), dense.mean(scores).value]
            assert [one.drawn[number] for one in found[metric]] == pytest.approx(expected)
    ends = dense.intervals(counts, ("a", "b"), unit="patients", resamples=60, confidence=0.9, seed=3)
    assert ends["iou"][1] == interval(found["iou"][1], 0.9)
    assert ends["iou"][2].low < found["iou"][2].value < ends["iou"][2].high


def test_patients_of_many_pixels_do_not_make_the_interval_narrow() -> None:
    """The same patients with a hundred times the pixels: the interval is that of patients, not of pixels."""
    few, many = (
        dense.intervals(patients(14) * times, ("a", "b"), unit="patients", resamples=300, confidence=0.95, seed=0)
        for times in (1, 100)
    )
    assert few == many


@pytest.mark.parametrize(
    ("many", "holding", "resamples", "why"),
    [
        (9, 9, 100, "9 patients, fewer than 10"),
        (12, 4, 100, "4 patients hold class 'b', fewer than 5"),
        (12, 12, 0, "no resamples"),
    ],
)
def test_without_enough_patients_there_is_no_interval(many: int, holding: int, resamples: int, why: str) -> None:
    counts = patients(many)
    counts[holding:, 1] = 0
    found = dense.intervals(counts, ("a", "b"), unit="patients", resamples=resamples, confidence=0.95, seed=0)
    for metric in dense.METRICS:
        first, second, mean = found[metric]
        assert why in second.reason and why in mean.reason and second.low is mean.high is None
        assert (first.low is None) == (why not in "4 patients hold class 'b', fewer than 5")


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
