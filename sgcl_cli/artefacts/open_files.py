"""How many files a process may hold open: a mapped features file stays open, and the usual limit is 1,024."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from sgcl_cli.errors import ArtefactError

_OTHERS = 256  # what a process holds open besides


def allow(many: int) -> None:
    """Raise this process's own (soft) limit to so many open files and some more, as far as the machine's (hard) one lets it.

    :raises ArtefactError: the hard limit is lower.
    """
    import resource  # Unix only, as is the limit

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = many + _OTHERS
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ArtefactError(
            f"{many} files have to be open at once, and this machine allows {hard}",
            f"raise the limit (ulimit -Hn {needed}), or use a machine with more memory, where features need not stay on disk",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@contextlib.contextmanager
def spoken(path: Path) -> Iterator[None]:
    """Say what it means that no more files can be opened.

    :raises ArtefactError: it happened.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE) or "Too many open files" in str(error):
            raise ArtefactError(
                f"{path} cannot be opened: too many files are open", "raise the limit: ulimit -n 65536"
            ) from error
        raise
