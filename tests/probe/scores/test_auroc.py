"""AUROC of resamples: both ways against a loop over pairs of rows."""

from __future__ import annotations

import numpy as np
import pytest

from sgcl_cli.probe.scores.auroc import auroc_by_pairs, auroc_by_rank, resampled_auroc

WAYS = pytest.mark.parametrize("auroc", [auroc_by_rank, auroc_by_pairs, resampled_auroc])


def by_loops(values, positive, patient, weight) -> float:
    """Each positive row against each negative row, as often as their patients were drawn; a tie is half a win."""
    wins = pairs = 0.0
    for i in np.flatnonzero(positive):
        for j in np.flatnonzero(~positive):
            both = weight[patient[i]] * weight[patient[j]]
            wins += both * (1.0 if values[i] > values[j] else 0.5 if values[i] == values[j] else 0.0)
            pairs += both
    return wins / pairs if pairs else float("nan")


@WAYS
@pytest.mark.parametrize("patients", [4, 12])
def test_equals_a_loop_over_pairs(auroc, patients: int) -> None:
    draw = np.random.default_rng(patients)
    values = draw.integers(0, 6, 40) / 5  # many ties
    positive, patient = draw.random(40) < 0.4, draw.integers(0, patients, 40)
    weights = draw.multinomial(patients, np.full(patients, 1 / patients), 150).astype(float)  # more than a block of 128
    found = auroc(values, positive, patient, weights)
    expected = [by_loops(values, positive, patient, weight) for weight in weights]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@WAYS
def test_literal_values(auroc) -> None:
    values, positive = np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False])
    weights = np.array([[1.0, 1, 1, 1], [0, 1, 1, 0], [0, 2, 1, 1]])
    np.testing.assert_allclose(auroc(values, positive, np.arange(4), weights), [3.5 / 4, 0.5, 0.75])


@WAYS
def test_a_resample_without_a_class_is_undefined(auroc) -> None:
    values, positive = np.array([0.9, 0.1]), np.array([True, False])
    found = auroc(values, positive, np.array([0, 1]), np.array([[2.0, 0], [0, 2], [1, 1]]))
    np.testing.assert_array_equal(found, [np.nan, np.nan, 1.0])
