from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from sgcl_cli.engine.pool import Lost, Progress, run_tasks
from sgcl_cli.errors import Interrupted, SlideError

TASKS = """
import os, time
from pathlib import Path
from sgcl_cli.errors import SlideError


def double(progress, value):
    return 2 * value


def process(progress, value):
    return os.getpid()


def treacherous(progress, kind, folder):
    Path(folder, f"{kind}-{os.getpid()}-{time.monotonic_ns()}").touch()
    if kind == "abort":
        os.abort()
    if kind == "hang":
        time.sleep(600)
    if kind == "refuse":
        raise SlideError("bad slide", "mend it")
    if kind == "bug":
        return {}["missing"]
    if kind == "abort-once" and len(list(Path(folder).glob("abort-once-*"))) == 1:
        os.abort()
    return kind


def counting(progress, units):
    progress.expect(units)
    for _ in range(units):
        progress.advance()
        time.sleep(0.01)
    return units


def resident(progress, number):
    progress.expect(1)
    progress.advance()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return number, os.getpid(), pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def sharing(progress, until):
    while until and progress.share() != until:
        time.sleep(0.01)
    return progress.share()


def sleeping(progress, folder):
    Path(folder, str(os.getpid())).touch()
    time.sleep(600)


if __name__ == "__main__":
    import sys
    import tasks
    from sgcl_cli.engine.pool import run_tasks
    list(run_tasks(tasks.sleeping, {"a": (sys.argv[1],), "b": (sys.argv[1],)}, workers=2, timeout=None))
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Task functions in a module that spawned workers can import too."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "tasks.py").write_text(TASKS)
    monkeypatch.syspath_prepend(folder)
    import tasks

    yield tasks
    del sys.modules["tasks"]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "State:\tZ" not in status.read_text()


def wait_until(condition, seconds: float = 15.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_results_come_from_other_processes(tasks):
    results = list(run_tasks(tasks.double, {"a": (1,), "b": (2,), "c": (3,)}, workers=2, timeout=None))
    assert {result.key: result.value for result in results} == {"a": 2, "b": 4, "c": 6}
    assert all(result.error is None for result in results)


@pytest.mark.parametrize("workers", [0, 1])
def test_one_worker_is_still_another_process(tasks, workers):
    (result,) = run_tasks(tasks.process, {"a": (1,)}, workers=workers, timeout=None)
    assert result.value not in (None, os.getpid())


def test_no_tasks():
    assert list(run_tasks(print, {}, workers=4, timeout=1)) == []


def test_a_crash_or_a_hang_costs_its_task_only_and_is_tried_once_more(tasks, tmp_path):
    kinds = ["abort", "fine", "hang", "refuse", "bug", "abort-once", "fine too"]
    results = list(
        run_tasks(tasks.treacherous, {kind: (kind, str(tmp_path)) for kind in kinds}, workers=2, timeout=2.0)
    )
    by_key = {result.key: result for result in results}
    assert sorted(by_key) == sorted(kinds) and len(results) == len(kinds)
    assert [by_key[kind].value for kind in ("fine", "fine too", "abort-once")] == ["fine", "fine too", "abort-once"]
    assert isinstance(by_key["abort"].error, Lost) and "aborted" in by_key["abort"].error.reason
    assert isinstance(by_key["hang"].error, Lost) and "longer than 2 s" in by_key["hang"].error.reason
    refusal = by_key["refuse"].error
    assert isinstance(refusal, SlideError) and (refusal.message, refusal.hint) == ("bad slide", "mend it")
    assert isinstance(by_key["bug"].error, KeyError)
    attempts = {kind: len(list(tmp_path.glob(f"{kind}-[0-9]*"))) for kind in kinds}
    assert attempts == {kind: 2 if kind in ("abort", "hang", "abort-once") else 1 for kind in kinds}
    assert {result.key for result in results[-3:]} == {"abort", "hang", "abort-once"}


def test_progress_inside_tasks(tasks):
    seen = []
    results = run_tasks(
        tasks.counting, {"a": (40,), "b": (20,)}, workers=2, timeout=None, on_progress=lambda *pair: seen.append(pair)
    )
    assert sorted(result.value for result in results) == [20, 40]
    assert seen[-1] == (60, 60)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert any(0 < done < 60 for done, _ in seen)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_memory_stays_flat_over_a_thousand_tasks(tasks):
    here, there = [], {}
    for result in run_tasks(tasks.resident, {str(n): (n,) for n in range(1000)}, workers=1, timeout=60.0):
        _, pid, mib = result.value
        there.setdefault(pid, []).append(mib)
        here.append(tasks.resident(Progress(0), 0)[2])
    (resident,) = there.values()
    assert len(resident) == 1000
    assert resident[-1] - resident[100] < 5 and here[-1] - here[100] < 5


def test_progress_outside_a_worker_does_nothing_and_has_one_cpu():
    progress = pickle.loads(pickle.dumps(Progress(3)))
    progress.expect(5)
    progress.advance()
    assert progress.share() == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Interrupted])
def test_an_interruption_stops_the_workers_at_once(tasks, tmp_path, kind):
    def interrupt(number, frame):
        raise KeyboardInterrupt if kind is KeyboardInterrupt else Interrupted(number)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        threading.Thread(
            target=lambda: wait_until(lambda: any(tmp_path.glob("[0-9]*"))) and os.kill(os.getpid(), signal.SIGUSR1)
        ).start()
        with pytest.raises(kind):
            list(run_tasks(tasks.sleeping, {"a": (str(tmp_path),)}, workers=1, timeout=None))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert wait_until(lambda: not any(alive(int(path.name)) for path in tmp_path.glob("[0-9]*")), 5)


def test_closing_the_iterator_stops_the_workers(tasks, tmp_path):
    results = run_tasks(tasks.treacherous, {k: (k, str(tmp_path)) for k in ("fine", "hang")}, workers=2, timeout=None)
    assert next(results).key == "fine"
    results.close()
    pids = [int(path.name.split("-")[1]) for path in tmp_path.glob("hang-*")]
    assert wait_until(lambda: not any(map(alive, pids)), 5)


def test_workers_die_with_a_killed_parent(tasks, tmp_path):
    parent = subprocess.Popen(
        [sys.executable, tasks.__file__, str(tmp_path)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    try:
        assert wait_until(lambda: len(list(tmp_path.glob("[0-9]*"))) == 2)
        pids = [int(path.name) for path in tmp_path.glob("[0-9]*")]
        assert all(map(alive, pids))
        parent.kill()
        parent.wait()
        assert wait_until(lambda: not any(map(alive, pids)), 10)
    finally:
        parent.kill()
        parent.wait()


def test_tasks_share_the_cpus_that_others_have_left(tasks):
    work = {"short": (0,), "long": (4,)}
    shares = {result.key: result.value for result in run_tasks(tasks.sharing, work, workers=4, timeout=30)}
    assert shares == {"short": 2, "long": 4}


def test_outside_a_worker_a_task_has_one_cpu():
    assert Progress(0).share() == 1
