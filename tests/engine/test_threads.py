from __future__ import annotations

import numpy as np
import scipy.linalg
from threadpoolctl import threadpool_info, threadpool_limits

from sgcl_cli.engine import threads


def blas() -> list[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    scipy.linalg.inv(np.eye(2))
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def test_blas_is_held_and_let_go_again() -> None:
    with threadpool_limits(limits=2, user_api="blas"):
        before = blas()
        assert before and max(before) == 2
        with threads.held(1):
            assert set(blas()) == {1}
        assert blas() == before
        with threads.held(None):
            assert blas() == before
