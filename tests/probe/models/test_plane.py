from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from sgcl_cli.probe.models.plane import principal_plane


def test_it_is_that_of_scikit_learn_up_to_sign_and_repeatable() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 6)) * np.arange(1, 7)
    plane = principal_plane(rows)
    oracle = PCA(2).fit(rows)
    np.testing.assert_allclose(np.abs(plane.places), np.abs(oracle.transform(rows)), atol=1e-9)
    assert plane.explained == pytest.approx(tuple(oracle.explained_variance_ratio_))
    assert (principal_plane(rows).places == plane.places).all()
    turned = principal_plane(rows[::-1])
    np.testing.assert_allclose(turned.places, plane.places[::-1], atol=1e-9)


@pytest.mark.parametrize("rows", [np.ones((5, 4)), np.ones((2, 4)), np.arange(5.0)[:, None]])
def test_without_a_plane_there_is_none(rows: np.ndarray) -> None:
    assert principal_plane(rows) is None
