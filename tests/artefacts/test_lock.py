from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sgcl_cli.artefacts.lock import LEASE, Lock, alone, claimed, held, sweep
from sgcl_cli.errors import ArtefactError, ConfigError

RULES = {"lease": 0.6, "heartbeat": 0.1}
OWNER = """
import sys, time
from pathlib import Path
from sgcl_cli.artefacts.lock import Lock
lock = Lock(Path(sys.argv[1]), lease=float(sys.argv[2]), heartbeat=0.1)
print(lock.take(), flush=True)
time.sleep(600)
"""


def foreign(path: Path, lease: float = 0.6) -> None:
    """The lock of a process on another host."""
    lines = ["filelock/2", f"pid={os.getpid()}", "host=elsewhere", "mode=lease", "token=abc", f"duration={lease}"]
    path.write_text("".join(f"{line}\n" for line in lines))


def seconds_until_taken(lock: Lock) -> float:
    started = time.monotonic()
    assert lock.take(wait=True)
    return time.monotonic() - started


def test_one_owner_at_a_time(tmp_path):
    first, second = (Lock(tmp_path / "deep" / "a.lock", **RULES) for _ in range(2))
    assert first.take() and not second.take()
    assert second.owner().startswith(f"process {os.getpid()} on ")
    first.release()
    assert not first.path.exists() and second.owner() == ""
    assert second.take() and not first.take()
    second.release()
    with held(tmp_path / "b.lock") as mine, held(tmp_path / "b.lock") as other:
        assert (mine, other) == (True, False)
    assert not (tmp_path / "b.lock").exists()


@contextmanager
def another_process_owns(path: Path, lease: float) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", OWNER, str(path), str(lease)]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout is not None and owner.stdout.readline() == "True\n"
        yield owner
    finally:
        owner.kill()
        owner.communicate()


def test_a_living_owner_keeps_it_beyond_the_lease(tmp_path):
    lock = Lock(tmp_path / "a.lock", lease=1.0, heartbeat=0.1)
    with another_process_owns(lock.path, 1.0):
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            assert not lock.take()
            time.sleep(0.05)


def test_a_dead_owner_of_this_host_loses_it_at_once(tmp_path):
    lock = Lock(tmp_path / "a.lock", lease=60.0, heartbeat=0.1)
    with another_process_owns(lock.path, 60.0):
        assert not lock.take()
    assert lock.path.exists()
    assert seconds_until_taken(lock) < 10
    lock.release()


def test_sweeping_removes_the_locks_of_the_dead_alone(tmp_path):
    gone, living = (Lock(tmp_path / f".{name}.lock") for name in ("gone", "living"))
    with another_process_owns(gone.path, LEASE):
        pass
    assert living.take() and gone.path.exists()
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".living.lock"]
    living.release()


@pytest.mark.parametrize("clock", [0.0, 4e9])
def test_a_silent_owner_elsewhere_loses_it_after_the_lease_whatever_its_clock_says(tmp_path, clock):
    lock = Lock(tmp_path / "a.lock", **RULES)
    foreign(lock.path)
    os.utime(lock.path, (clock, clock))
    assert not lock.take()
    assert 0.5 < seconds_until_taken(lock) < 3
    lock.release()


@pytest.mark.parametrize("clock", [0.0, 4e9])
def test_an_owner_elsewhere_whose_heart_beats_keeps_it_whatever_its_clock_says(tmp_path, clock):
    lock = Lock(tmp_path / "a.lock", lease=1.0, heartbeat=0.1)
    foreign(lock.path, 1.0)
    for beat in range(20):
        os.utime(lock.path, (clock + beat, clock + beat))
        assert not lock.take()
        time.sleep(0.1)
    lock.path.unlink()


def test_many_who_wait_for_a_silent_owner_become_owners_one_by_one(tmp_path):
    path, inside, most, turns = tmp_path / "a.lock", 0, 0, []
    foreign(path)

    def work() -> None:
        nonlocal inside, most
        lock = Lock(path, **RULES)
        lock.take(wait=True)
        inside += 1
        most = max(most, inside)
        time.sleep(0.02)
        turns.append(inside)
        inside -= 1
        lock.release()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, len(turns)) == (1, 6) and not path.exists()


def test_a_blank_file_left_by_a_power_cut_is_no_owner_for_ever(tmp_path):
    lock = Lock(tmp_path / "a.lock", **RULES)
    lock.path.touch()
    assert not lock.take()
    assert 0.5 < seconds_until_taken(lock) < 3
    lock.release()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArtefactError, match="cannot write"):
        Lock(tmp_path / "file" / "a.lock").take()


def test_other_rules_are_an_error_not_a_guess(tmp_path):
    lock = Lock(tmp_path / "a.lock", **RULES)
    foreign(lock.path, lease=5.0)
    with pytest.raises(ArtefactError, match="another version of sgcl"):
        lock.take()


WRITER = """
import sys, time
from pathlib import Path
from sgcl_cli.artefacts import lock
how = {"alone": lambda: lock.alone(Path(sys.argv[2])), "claimed": lambda: lock.claimed(Path(sys.argv[2]), sys.argv[3])}
with how[sys.argv[1]]():
    print("in", flush=True)
    time.sleep(600)
"""


@contextmanager
def another_process_writes(*words: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", WRITER, *words], stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout is not None and writer.stdout.readline() == "in\n"
            yield writer
        finally:
            writer.kill()


def test_an_output_has_one_writer_and_a_dead_one_is_followed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with another_process_writes("alone", str(out)) as writer:
        with pytest.raises(ArtefactError, match=f"another run writes to .*out: process {writer.pid} on"):
            with alone(out):
                pytest.fail("two writers")
        writer.kill()
        writer.wait()
        assert list(out.iterdir())
        with alone(out):
            (out / "result").touch()
    assert [path.name for path in out.iterdir()] == ["result"]


def test_a_folder_that_was_made_for_the_lock_alone_goes(tmp_path: Path) -> None:
    for writing in (alone(tmp_path / "out"), claimed(tmp_path / "out", "a")):
        with pytest.raises(ZeroDivisionError), writing:
            raise ZeroDivisionError
    assert not list(tmp_path.glob("out/.claim-*")) and not (tmp_path / "out").exists()


def test_writers_of_one_output_have_the_same_settings(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with another_process_writes("claimed", str(out), "a") as writer:
        with claimed(out, "a"), claimed(out, "a"):
            pass
        with pytest.raises(ConfigError, match=f"another run with other settings writes to .*out: process {writer.pid}"):
            with claimed(out, "b"):
                pytest.fail("two settings")
        writer.kill()
        writer.wait()
        with claimed(out, "b"):
            assert len(list(out.glob(".claim-*"))) == 1


@pytest.mark.parametrize("writing", [alone, lambda out: claimed(out, "a")], ids=["alone", "claimed"])
def test_a_writer_sweeps_what_dead_ones_left(tmp_path: Path, writing: Any) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = socket.gethostname()
    names = ["", "pt_files/", "20x_256px_0px_overlap/patches/", "a/b/c/"]
    left = [tmp_path / f"{folder}.x.pt.{host}-{dead.pid}.tmp" for folder in names]
    old, new = (tmp_path / f".{name}.h5.elsewhere-1.tmp" for name in ("old", "new"))
    mine, other = tmp_path / f".y.h5.{host}-{os.getpid()}.tmp", tmp_path / ".notes.tmp"
    for path in [*left, old, new, mine, other]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    os.utime(old, (0, 0))
    with writing(tmp_path):
        assert [path.exists() for path in left] == [False] * 4
        assert (old.exists(), new.exists(), mine.exists(), other.exists()) == (False, True, True, True)


def test_a_fifo_in_place_of_a_lock_file_is_refused(tmp_path: Path) -> None:
    """In a process of its own, which would wait for ever."""
    os.mkfifo(tmp_path / ".writer.lock")
    program = (
        "import sys; from pathlib import Path; from sgcl_cli.artefacts.lock import Lock\n"
        "Lock(Path(sys.argv[1])).take(wait=True)"
    )
    words = [sys.executable, "-c", program, str(tmp_path / ".writer.lock")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    last = done.stderr.splitlines()[-1]
    assert "ArtefactError" in last and ".writer.lock cannot be a lock: it is not a regular file (remove it)" in last
