"""Tasks of a pool run in the test's own process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sgcl_cli.engine.pool import Progress, Result


def run_tasks(function: Callable[..., Any], tasks: dict[str, tuple[Any, ...]], **_: Any) -> Iterator[Result[Any]]:
    """As ``engine.pool.run_tasks``, one task after another, without processes."""
    for slot, (key, arguments) in enumerate(tasks.items()):
        try:
            yield Result(key, function(Progress(slot), *arguments))
        except Exception as error:
            yield Result(key, error=error)
