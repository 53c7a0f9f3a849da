from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sgcl_cli.engine.cluster import run_on_cluster
from sgcl_cli.engine.pool import Lost
from sgcl_cli.errors import ConfigError, SlideError

TASKS = """
import os, time
from pathlib import Path
from sgcl_cli.errors import SlideError


def treacherous(progress, kind, folder):
    Path(folder, f"{kind}-{os.getpid()}").touch()
    if kind == "abort":
        os.abort()
    if kind == "hang":
        time.sleep(600)
    if kind == "refuse":
        raise SlideError("bad slide", "mend it")
    progress.expect(20)
    for _ in range(20):
        progress.advance()
        time.sleep(0.1)
    return kind, os.getcwd()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A scheduler and a worker with two threads; their address, and a folder whose modules the worker can import."""
    pytest.importorskip("distributed")
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "cluster_tasks.py").write_text(TASKS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}

    def start(*words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", *words, "--no-dashboard"]
        return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)

    where = folder / "scheduler.json"
    scheduler = start("distributed.cli.dask_scheduler", "--port", "0", "--scheduler-file", str(where))
    worker = start("distributed.cli.dask_worker", "--scheduler-file", str(where), "--nthreads", "2", "--no-nanny")
    try:
        end = time.monotonic() + 60
        while not where.exists() and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(0.2)
        yield json.loads(where.read_text())["address"], folder
    finally:
        for process in (worker, scheduler):
            process.terminate()
            process.wait()


def test_a_cluster_does_what_the_pool_does(cluster, tmp_path, monkeypatch):
    address, folder = cluster
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(tmp_path)
    import cluster_tasks

    seen: list[tuple[int, int]] = []
    kinds = ["abort", "fine", "hang", "refuse", "fine too"]
    tasks = {kind: (kind, str(tmp_path)) for kind in kinds}
    results = list(
        run_on_cluster(
            address, cluster_tasks.treacherous, tasks, timeout=6.0, on_progress=lambda *pair: seen.append(pair)
        )
    )
    by_key = {result.key: result for result in results}
    assert sorted(by_key) == sorted(kinds) and len(results) == len(kinds)
    assert [by_key[kind].value for kind in ("fine", "fine too")] == [(k, str(tmp_path)) for k in ("fine", "fine too")]
    assert isinstance(by_key["abort"].error, Lost) and "aborted" in by_key["abort"].error.reason
    assert isinstance(by_key["hang"].error, Lost) and "longer than 6 s" in by_key["hang"].error.reason
    refusal = by_key["refuse"].error
    assert isinstance(refusal, SlideError) and refusal.hint == "mend it"
    assert {kind: len(list(tmp_path.glob(f"{kind}-[0-9]*"))) for kind in kinds} == {
        kind: 2 if kind in ("abort", "hang") else 1 for kind in kinds
    }
    assert any(0 < done < expected for done, expected in seen)


def test_closing_the_iterator_stops_what_runs_there(cluster, tmp_path, monkeypatch):
    address, folder = cluster
    monkeypatch.syspath_prepend(folder)
    import cluster_tasks

    tasks = {kind: (kind, str(tmp_path)) for kind in ("refuse", "hang")}
    results = run_on_cluster(address, cluster_tasks.treacherous, tasks, timeout=None)
    assert next(results).key == "refuse"
    end = time.monotonic() + 60
    while not (begun := list(tmp_path.glob("hang-*"))) and time.monotonic() < end:
        time.sleep(0.1)
    results.close()
    (pid,) = [int(path.name.removeprefix("hang-")) for path in begun]
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("address", ["nonsense", "tcp://host", "host:port"])
def test_what_is_no_address_is_refused(address):
    pytest.importorskip("distributed")
    with pytest.raises(ConfigError, match="not the address of a scheduler"):
        list(run_on_cluster(address, print, {"a": ()}, timeout=None))


def test_without_dask_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match="not installed") as caught:
        list(run_on_cluster("tcp://host:8786", print, {"a": ()}, timeout=None))
    assert "sgcl[dask]" in caught.value.hint
