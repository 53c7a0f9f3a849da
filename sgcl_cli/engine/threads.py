"""How many CPU threads numpy and scipy compute with, torch's apart: BLAS and OpenMP keep pools of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def held(threads: int | None) -> Iterator[None]:
    """Within, BLAS and OpenMP of every library that is loaded take at most so many threads; None leaves them as they are."""
    if threads is None:
        yield
        return
    from threadpoolctl import threadpool_limits  # comes with scikit-learn, which pretraining does without

    with threadpool_limits(limits=threads):
        yield
