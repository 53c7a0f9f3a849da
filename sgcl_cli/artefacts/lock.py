"""Lock files with a heartbeat: one owner at a time among processes on one or several hosts.

``alone`` makes a process the only writer of an output (pretrain, embed, evaluate); ``claimed`` one of several with the same
settings (tile, with an additional lock per slide). Both remove temporary files of dead processes.

The lock is filelock's ``SoftFileLease``, which needs only a shared folder. Its file names the owner's host, process and start
time, and the owner touches it every few seconds. The lock of a dead process of this host, also if its process id was reused, is
taken over immediately; that of another host after its file has not changed for ``LEASE`` seconds by the clock of the process that
waits, so that clocks need not agree. A takeover is one atomic exchange of files.

An owner that was suspended for longer than the lease and then continues works at the same time as its successor. Both write
the same files atomically, so that no file is damaged; the work is done twice.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from sgcl_cli.artefacts import store
from sgcl_cli.errors import ArtefactError, ConfigError

LEASE = 120.0  # seconds
HEARTBEAT = 10.0  # seconds
_POLL = 0.2  # seconds


class Lock:
    """A lock file. Keep the object while waiting, because it records the time since the owner's last heartbeat.

    :param path: the lock file.
    :param lease: seconds without a heartbeat after which the lock of another host is free; the same in all processes.
    :param heartbeat: seconds between heartbeats.
    """

    def __init__(self, path: Path, *, lease: float = LEASE, heartbeat: float = HEARTBEAT) -> None:
        self.path = path
        self._lease = SoftFileLease(path, lease_duration=lease, heartbeat_interval=heartbeat)
        self._blank: tuple[tuple[int, int, int], float] | None = None

    def take(self, *, wait: bool = False) -> bool:
        """Try to become the owner.

        :param wait: wait for as long as it takes.
        :returns: whether the lock is owned; always True with ``wait``.
        :raises ArtefactError: the lock file is not a regular file, not writable, or was made by a version with another lease.
        """
        if self.path.exists() and not self.path.is_file():
            raise ArtefactError(f"{self.path} cannot be a lock: it is not a regular file", "remove it")
        with store.writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while not self._try():
                self._clear_if_blank()
                if not wait:
                    return False
                time.sleep(_POLL)
        return True

    def _try(self) -> bool:
        try:
            self._lease.acquire(blocking=False)
        except Timeout:
            return False
        except LeaseSettingsMismatch as error:
            raise ArtefactError(
                f"{self.path} is held by another version of sgcl with other lease times",
                "wait for the other run to end; if there is none, remove the file",
            ) from error
        return True

    def _clear_if_blank(self) -> None:
        """Remove a file that remains empty for a whole lease, as left by a host that lost power while taking the lock."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return
        seen = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        if status.st_size or self._blank is None or self._blank[0] != seen:
            self._blank = None if status.st_size else (seen, time.monotonic())
        elif time.monotonic() - self._blank[1] >= self._lease.lease_duration:
            self.path.unlink(missing_ok=True)

    def release(self) -> None:
        """Release the lock and remove its file."""
        self._lease.release()

    def owner(self) -> str:
        """Description of the owner; empty without one."""
        owner = self._lease.owner
        return "" if owner is None else f"process {owner.pid} on {owner.hostname.partition('?')[0]}"


@contextmanager
def held(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Take a lock for a ``with`` block; yields whether it is owned, see ``Lock.take``."""
    lock = Lock(path)
    taken = lock.take(wait=wait)
    try:
        yield taken
    finally:
        if taken:
            lock.release()


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Be the only writer of an output folder for a ``with`` block; temporary files of dead runs are removed first.

    A folder that was created for the lock and is still empty at the end is removed.

    :raises ArtefactError: another run writes to the folder.
    """
    made = not out.exists()
    lock = Lock(out / ".writer.lock")
    if not lock.take():
        owner = lock.owner()
        raise ArtefactError(
            f"another run writes to {out}" + (f": {owner}" if owner else ""), "wait for it to end, or use another --out"
        )
    try:
        store.sweep(out)
        yield
    finally:
        lock.release()
        if made:
            with suppress(OSError):
                out.rmdir()


@contextmanager
def claimed(out: Path, settings: str) -> Iterator[None]:
    """Be one of several writers of an output folder with the same settings, for a ``with`` block.

    :param settings: must be equal for all writers.
    :raises ConfigError: another run with other settings writes to the folder.
    """
    made = not out.exists()
    kind = hashlib.sha256(settings.encode()).hexdigest()[:16]
    mine = Lock(out / f".claim-{kind}-{uuid.uuid4().hex[:12]}.lock")
    with held(out / ".claims.lock", wait=True):
        for path in out.glob(".claim-*.lock"):
            other = Lock(path)
            if path.name.startswith(f".claim-{kind}-"):
                continue
            if not other.take():
                raise ConfigError(
                    f"another run with other settings writes to {out}: {other.owner()}",
                    "wait for it to end, use its settings, or another --out",
                )
            other.release()
        mine.take()
    try:
        store.sweep(out)
        yield
    finally:
        mine.release()
        if made:
            with suppress(OSError):
                out.rmdir()


def sweep(folder: Path) -> None:
    """Remove the lock files of dead owners from a folder; those of other hosts remain."""
    for path in folder.glob(".*.lock"):
        with held(path):
            continue
