"""The number of CPU threads of numpy and scipy, whose thread pools (BLAS, OpenMP) are separate from torch's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def held(threads: int | None) -> Iterator[None]:
    """Limit the threads of BLAS and OpenMP in every loaded library within the context; None changes nothing."""
    if threads is None:
        yield
        return
    from threadpoolctl import threadpool_limits  # comes with scikit-learn, which pretraining does without

    with threadpool_limits(limits=threads):
        yield
