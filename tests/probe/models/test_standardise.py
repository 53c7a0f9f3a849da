"""Features on the scale of the training rows."""

from __future__ import annotations

import numpy as np

from sgcl_cli.probe.models.standardise import Standardiser


def test_literal_mean_and_scale() -> None:
    found = Standardiser.fit(np.array([[1.0, 10], [3, 10], [5, 10], [7, 10]]))
    assert found.mean.tolist() == [4.0, 10.0]
    np.testing.assert_allclose(found.scale, [np.sqrt(5), 1.0])  # N in the denominator; a constant gets 1


def test_other_rows_are_on_the_scale_of_the_training_rows() -> None:
    scale = Standardiser.fit(np.array([[0.0], [4.0]]))
    assert scale(np.array([[2.0], [8.0]])).tolist() == [[0.0], [3.0]]


def test_a_constant_with_rounding_gets_scale_one() -> None:
    rows = np.full((3, 1), 1e6) + np.array([[0.0], [1e-8], [0.0]])
    assert Standardiser.fit(rows).scale.tolist() == [1.0]


def test_narrow_rows_are_summed_in_double_precision() -> None:
    rows = np.full((10_000, 1), 3.001, np.float16)
    rows[::2] = 3.005
    found = Standardiser.fit(rows)
    np.testing.assert_allclose(found.mean, rows.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.scale, rows.astype(np.float64).std(0), rtol=1e-9)
    assert found(rows).dtype == np.float64
