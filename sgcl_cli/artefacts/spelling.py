"""Names that stand for one thing and are spelled in two ways, as happens where several people name classes."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def lookalikes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of different names that differ only in case, in blanks, or in how accents are encoded; each sorted."""
    groups: dict[str, set[str]] = {}
    for name in names:
        plain = " ".join(unicodedata.normalize("NFC", name).casefold().split())
        groups.setdefault(plain, set()).add(name)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def spoken(group: Iterable[str]) -> str:
    """The names of a group in quotes, so that blanks show: ``'Tumor ' and 'tumor'``."""
    return " and ".join(f"'{name}'" for name in group)
