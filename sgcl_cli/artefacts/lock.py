"""Lock files with a heartbeat: one owner at a time for what several processes, perhaps on several hosts, could write.

``alone`` is the only writer of an output (pretrain, embed, evaluate); ``claimed`` is one of several under the same settings
(tile, whose slides have locks of their own). Both sweep what dead runs left.

The lock is filelock's ``SoftFileLease``, which works where only the shared folder is common. Its file names the owner's host,
process and start; the owner touches it every few seconds. A lock of a process of this host that is gone, or whose number
another process has now, is taken over at once; one of another host when its file has not changed for ``LEASE`` seconds of the
watcher's own clock, so clocks that disagree take nothing from anybody. A takeover is one atomic exchange of files.

An owner that was frozen for longer than the lease, and then goes on, works beside its successor. What they write is whole or
absent and the same, so nothing is torn; the work is done twice.
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
    """A lock file; keep the object while waiting, as it remembers since when the owner has been silent.

    :param lease: seconds without a heartbeat after which the lock of another host is free; the same for all who share it.
    """

    def __init__(self, path: Path, *, lease: float = LEASE, heartbeat: float = HEARTBEAT) -> None:
        self.path = path
        self._lease = SoftFileLease(path, lease_duration=lease, heartbeat_interval=heartbeat)
        self._blank: tuple[tuple[int, int, int], float] | None = None

    def take(self, *, wait: bool = False) -> bool:
        """Become the owner; whether it worked. With ``wait`` it does, however long it takes.

        :raises ArtefactError: the lock file cannot be written, or is of a version with other rules.
        """
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
                f"{self.path} is held under other rules, by another version of sgcl",
                "wait for the other run to end; if there is none, remove the file",
            ) from error
        return True

    def _clear_if_blank(self) -> None:
        """Remove a file that stays empty for the whole lease, as a host leaves it that lost power while it took the lock."""
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
        """Give it back; its file is removed."""
        self._lease.release()

    def owner(self) -> str:
        """Who holds it, in words; empty where nobody does."""
        owner = self._lease.owner
        return "" if owner is None else f"process {owner.pid} on {owner.hostname.partition('?')[0]}"


@contextmanager
def held(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Own a lock file for a ``with`` block; gives whether it is owned, see ``Lock.take``."""
    lock = Lock(path)
    taken = lock.take(wait=wait)
    try:
        yield taken
    finally:
        if taken:
            lock.release()


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """The only writer of an output folder for a ``with`` block; what dead runs left there is swept first.

    A folder that is made for the lock and stays empty is taken away again.

    :raises ArtefactError: another run writes there.
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
    """One of several writers of an output folder, all of which work under the same settings.

    :param settings: what all must have in common.
    :raises ConfigError: another run works there under other settings.
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
                    f"another run works on {out} under other settings: {other.owner()}",
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
    """Remove the lock files in a folder whose owners are gone; those of other hosts stay."""
    for path in folder.glob(".*.lock"):
        with held(path):
            continue
