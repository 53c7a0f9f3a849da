"""The tasks of ``pool`` on the workers of a dask cluster.

Each task runs in a separate process started by the dask worker. A task that crashes or hangs is tried once more and then fails
alone; the dask worker and its other tasks go on. The cluster decides how many tasks run at a time.
Workers need the same version of this package and the same folders under the same paths.
"""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from sgcl_cli import __version__
from sgcl_cli.engine.pool import Lost, Result, run_tasks
from sgcl_cli.errors import ConfigError, SgclError

R = TypeVar("R")

_POLL = 0.2  # seconds between looks at the futures
_REPORT = 1.0  # seconds between a worker's reports of progress
_PATIENCE = 20.0  # seconds for the scheduler to answer


def run_on_cluster(
    address: str,
    function: Callable[..., R],
    tasks: Mapping[str, tuple[Any, ...]],
    *,
    timeout: float | None,
    on_progress: Callable[[int, int], None] = lambda done, expected: None,
) -> Iterator[Result[R]]:
    """Run ``function(progress, *arguments)`` for each task on a cluster; yield results as they come.

    Closing the iterator, or an exception while it waits, stops the tasks that run.

    :param address: of the scheduler, for example ``tcp://host:8786``.
    :param timeout: seconds after which a task is given up; None for no limit.
    :param on_progress: called with the units done and expected so far, over all tasks.
    :raises ConfigError: dask is not installed, no scheduler answers, or a worker lacks this package in this version.
    :raises SgclError: the scheduler was lost.
    """
    with _connected(address) as client:
        topic = f"sgcl-{uuid.uuid4().hex}"
        counts: dict[str, tuple[int, int]] = {}
        client.subscribe_topic(topic, lambda event: counts.update([event[1]]))
        futures: dict[Any, str] = {}
        try:
            for number, (key, arguments) in enumerate(tasks.items()):
                order = pickle.dumps((key, function, arguments, timeout))
                futures[
                    client.submit(
                        _beside_the_worker,
                        *(key, order, str(Path.cwd()), __version__, topic),
                        key=f"{topic}-{number}",
                        pure=False,
                        retries=0,
                    )
                ] = key
            while futures:
                finished = [future for future in futures if future.done()]
                on_progress(sum(done for done, _ in counts.values()), sum(expected for _, expected in counts.values()))
                for future in finished:
                    yield _result(futures.pop(future), future, address)
                if not finished:
                    time.sleep(_POLL)
        finally:
            if futures:
                client.cancel(list(futures), force=True)


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError("--dask needs dask, which is not installed", "pip install 'sgcl[dask]'") from error
    if not re.fullmatch(r"([a-z]+://)?[^\s/]+:[0-9]+", address):
        raise ConfigError(f"--dask is '{address}', not the address of a scheduler", "example: tcp://host:8786")
    try:
        client = Client(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            f"no dask scheduler answers at {address}: {error}", "start one with: dask scheduler; it prints its address"
        ) from error
    try:
        yield client
    finally:
        client.close()


def _result(key: str, future: Any, address: str) -> Result[Any]:
    """The result of a task; errors that are not the task's are raised."""
    from distributed import KilledWorker

    if future.cancelled():
        raise SgclError(f"lost the dask scheduler at {address}", "start it again and run the same command to go on")
    error = future.exception()
    if isinstance(error, KilledWorker):
        return Result(key, error=Lost("the dask workers that tried it died"))
    if isinstance(error, ModuleNotFoundError) and str(error.name).startswith("sgcl_cli"):
        raise ConfigError(
            "a dask scheduler or worker does not have sgcl", f"install sgcl {__version__} wherever dask runs"
        ) from error
    if error is not None:
        raise error
    result: Result[Any] = pickle.loads(future.result())
    return result


def _beside_the_worker(key: str, order: bytes, folder: str, version: str, topic: str) -> bytes:
    """On a dask worker: run the task in a child process; returns its pickled ``Result``.

    A dask worker may not have children through multiprocessing, hence a plain process and a pipe. The child ends when the pipe
    is closed: when the worker dies or the task is cancelled.
    """
    if version != __version__:
        raise ConfigError(
            f"a dask worker has sgcl {__version__}, this is {version}", "install the same version on both"
        )
    if not Path(folder).is_dir():
        raise ConfigError(f"a dask worker does not see the folder {folder}", "workers need the folders of this machine")
    here, there = Pipe()
    with here:
        with there:
            child = subprocess.Popen(
                [sys.executable, "-m", "sgcl_cli.engine.cluster", str(there.fileno())],
                stdin=subprocess.DEVNULL,
                cwd=folder,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                pass_fds=[there.fileno()],
            )
        with child:
            return _attended(here, child, key, order, topic)


def _attended(here: Connection, child: subprocess.Popen[bytes], key: str, order: bytes, topic: str) -> bytes:
    from distributed import get_worker

    worker, reported = get_worker(), time.monotonic()
    here.send_bytes(order)
    try:
        while True:
            message = here.recv()
            if isinstance(message, bytes):
                return message
            if time.monotonic() - reported >= _REPORT:
                if _is_cancelled(worker):
                    break
                worker.log_event(topic, (key, message))
                reported = time.monotonic()
    except EOFError:
        pass
    finally:
        here.close()
    reason = "it was cancelled" if child.poll() is None else f"its process died (exit code {child.wait()})"
    return pickle.dumps(Result(key, error=Lost(reason)))


def _is_cancelled(worker: Any) -> bool:
    """Whether the task that this thread runs was cancelled."""
    from distributed.worker import thread_state

    state = worker.state.tasks.get(thread_state.key)
    return state is None or state.state == "cancelled"


def _serve(connection: Connection) -> None:
    """In the child process of a dask worker: run one task and send its progress and its result."""
    key, function, arguments, timeout = pickle.loads(connection.recv_bytes())
    with suppress(BrokenPipeError):
        for result in run_tasks(
            function,
            {key: arguments},
            workers=1,
            timeout=timeout,
            on_progress=lambda done, expected: connection.send((done, expected)),
        ):
            connection.send(pickle.dumps(result))


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
