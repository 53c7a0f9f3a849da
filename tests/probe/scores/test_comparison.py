from __future__ import annotations

import numpy as np
import pytest

from sgcl_cli.errors import LabelError
from sgcl_cli.probe.scores import comparison, metrics, uncertainty


def entry(name: str, noise: float, seed: int = 0, rows: int = 80, signal: float = 1.0, **changes):
    rng = np.random.default_rng(99)
    truth = np.arange(rows) % 2
    base = rng.normal(size=rows) + signal * truth
    value = base + noise * np.random.default_rng(seed).normal(size=rows)
    columns = {
        "truth": truth,
        "probability": np.stack([-value, value], 1),
        "fold": np.array([str(number // 2 % 2 + 1) for number in range(rows)]),
        "patient": np.array([f"p{number}" for number in range(rows)]),
    } | changes
    names = np.array([f"s{number}" for number in range(rows)])
    return comparison.Entry(name, names, columns["truth"], metrics.Predictions(*columns.values(), ("a", "b")))


def test_the_difference_is_that_of_the_headlines_and_its_interval_is_paired():
    one, other = entry("one", 0.1), entry("other", 0.2, seed=1)
    (found,) = comparison.compare([one, other], "auroc", resamples=400)
    heads = [uncertainty.headlines(one_.reported, resamples=400)["auroc"] for one_ in (one, other)]
    assert found.value == pytest.approx(heads[0].value - heads[1].value)
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.6 * (heads[0].high - heads[0].low), "models alike on the same patients"


def test_equal_models_have_p_one_and_a_worse_one_a_small_p():
    one, same, worse = entry("one", 0.1), entry("same", 0.1), entry("worse", 4)
    found = comparison.compare([one, same, worse], "auroc", resamples=400)
    assert [(pair.first, pair.second) for pair in found] == [("one", "same"), ("one", "worse"), ("same", "worse")]
    assert (found[0].value, found[0].p) == (0, 1)
    assert found[1].value > 0
    assert found[1].p < 0.02
    assert [pair.adjusted for pair in found] == pytest.approx(comparison.holm([pair.p for pair in found]))


@pytest.mark.slow
def test_under_equal_models_small_p_values_are_as_rare_as_they_should_be():
    p_values = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        truth = np.arange(60) % 2
        base = rng.normal(size=60) + truth
        pair = []
        for name in ("a", "b"):
            value = base + rng.normal(size=60)
            pair.append(entry(name, 0, rows=60, probability=np.stack([-value, value], 1)))
        p_values.append(comparison.compare(pair, "auroc", resamples=100)[0].p)
    assert np.mean(np.array(p_values) < 0.05) <= 0.10
    assert 0.35 < np.mean(p_values) < 0.65


def test_holm_by_hand():
    assert comparison.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert comparison.holm([0.6, 0.7]) == [1.0, 1.0]
    assert comparison.holm([]) == []


@pytest.mark.parametrize(("column", "what"), [("truth", "labels"), ("fold", "folds"), ("patient", "patients")])
def test_other_splits_are_refused(column, what):
    one = entry("one", 0.1)
    changed = getattr(one.reported, column).copy()
    changed[[4, 7]] = changed[[7, 4]]
    with pytest.raises(LabelError, match=f"'one' and 'other' have different {what}, first at 's4'.*--splits FILE"):
        comparison.compare([one, entry("other", 0.1, **{column: changed})], "auroc")


def test_other_rows_are_refused():
    with pytest.raises(LabelError, match="do not report the same rows, first 's70'"):
        comparison.compare([entry("one", 0.1), entry("other", 0.1, rows=70)], "auroc")


def test_without_an_interval_there_is_no_p_and_a_reason():
    few = [entry(name, 0.1, rows=8) for name in ("one", "other")]
    (found,) = comparison.compare(few, "auroc")
    assert found.value is not None
    assert (found.low, found.p, found.adjusted, found.reason) == (None, None, None, "8 patients, fewer than 10")
