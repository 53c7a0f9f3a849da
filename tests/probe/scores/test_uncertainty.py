from __future__ import annotations

import numpy as np
import pytest

from sgcl_cli.probe.scores import reported, uncertainty
from sgcl_cli.probe.scores.reported import Score
from sgcl_cli.probe.scores.uncertainty import Headline


def headline(*folds: float | None) -> Headline:
    scores = {str(number): Score(value) for number, value in enumerate(folds)}
    value, reason = reported.mean_of_scores(scores)
    return Headline("auroc", value, reason, None, None, "", scores, Score(None))


def test_folds_and_seeds_spread_apart():
    averaged = headline(0.7, 0.8, 0.9)
    seeds = [headline(0.7, 0.8, 0.9), headline(0.72, 0.82, 0.92)]
    found = uncertainty.spread(averaged, seeds)
    assert found.folds == pytest.approx(0.1)
    assert found.seeds == pytest.approx(0.02 / np.sqrt(2))


def test_a_spread_of_one_is_none():
    assert uncertainty.spread(headline(0.7, None), [headline(0.7)]) == uncertainty.Spread(None, None)


def test_the_mean_leaves_undefined_folds_out_and_keeps_the_reason():
    assert reported.mean_of_scores({"1": Score(0.5), "2": Score(None, "why")}) == (0.5, "")
    assert reported.mean_of_scores({"1": Score(None, "why")}) == (None, "why")
