from __future__ import annotations

import pytest

from sgcl_cli.method.settings import share_of


@pytest.mark.parametrize(
    ("share", "n", "expected"), [(0.2, 50, 10), (0.29, 100, 29), (0.2, 9, 1), (0.1, 3, 1), (1, 7, 7)]
)
def test_share_is_a_floor_that_rounding_does_not_lower(share, n, expected):
    assert share_of(share, n) == expected
