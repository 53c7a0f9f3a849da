"""Limit on open files: every memory-mapped feature file remains open, and the usual limit is 1,024."""

from __future__ import annotations

from sgcl_cli.errors import ArtefactError

_OTHERS = 256  # other open files of a process


def allow(many: int) -> None:
    """Raise the soft limit of this process so that ``many`` more files can be open.

    :raises ArtefactError: the hard limit is lower.
    """
    import resource  # Unix only

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
