"""New HDF5 files, such that a full disk is an error of the system and not a crash.

HDF5 2.0 cannot close a file that it failed to write: it prints an error for each object in it, and crashes when Python ends.
So it writes through a file object that keeps the first error to itself and drops everything after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import h5py


class _Silent(FileIO):
    """A file that never fails to be written.

    :ivar error: the first error of the system; nothing is written after it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+b")
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        end = self.tell() + len(view)
        done = 0
        while self.error is None and done < len(view):  # the system takes at most 2 GiB at once
            try:
                done += super().write(view[done:])
            except OSError as error:
                self.error = error
        self.seek(end)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        if self.error is None:
            try:
                return super().truncate(size)
            except OSError as error:
                self.error = error
        return self.tell() if size is None else size

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, with zeros where nothing was written."""
        view = memoryview(buffer).cast("B")
        view[:] = self.read(len(view)).ljust(len(view), b"\0")
        return len(view)


@contextmanager
def created(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file to be filled in a ``with`` block.

    :raises OSError: it could not be written as a whole, because the disk is full, say.
    """
    with _Silent(path) as file:
        try:
            with h5py.File(file, "w") as opened:
                yield opened
        except Exception:
            if file.error is not None:
                raise file.error from None
            raise
        if file.error is not None:
            raise file.error
