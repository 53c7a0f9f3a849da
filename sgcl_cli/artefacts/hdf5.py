"""Writing of HDF5 files that raises OSError, instead of crashing, when the disk is full.

HDF5 2.0 cannot close a file after a failed write: it prints an error for each object and crashes when Python exits. Files are
therefore written through a file object that stores the first error and discards everything after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import h5py


class _Silent(FileIO):
    """A file with writes that never raise.

    :ivar error: the first OSError; nothing is written after it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+b")
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        end = self.tell() + len(view)
        done = 0
        while self.error is None and done < len(view):  # a write is limited to 2 GiB
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
    """Create an HDF5 file, to be filled in a ``with`` block.

    :raises OSError: it could not be written completely, for example because the disk is full.
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
