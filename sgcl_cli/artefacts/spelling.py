"""Short lists of names for messages, and names that differ only in spelling, such as classes named by several people."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence


def lookalikes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of names that differ only in case, spaces or Unicode composition; each group is sorted."""
    groups: dict[str, set[str]] = {}
    for name in names:
        plain = " ".join(unicodedata.normalize("NFC", name).casefold().split())
        groups.setdefault(plain, set()).add(name)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def in_quotes(group: Iterable[str]) -> str:
    """The names of a group in quotes, which show spaces: ``'Tumor ' and 'tumor'``."""
    return " and ".join(f"'{name}'" for name in group)


def listed(names: Sequence[object], most: int, *, quoted: bool = True) -> str:
    """The first ``most`` names, and how many more there are: ``'a', 'b' and 3 more``."""
    shown = ", ".join(f"'{name}'" if quoted else str(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
