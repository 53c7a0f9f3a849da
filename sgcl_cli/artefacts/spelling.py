"""Short lists of names for messages, and names that differ only in spelling, such as classes named by several people."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")


def lookalikes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of names that differ only in case, spaces or Unicode composition; each group is sorted."""
    groups: dict[str, set[str]] = {}
    for name in names:
        plain = " ".join(unicodedata.normalize("NFC", name).casefold().split())
        groups.setdefault(plain, set()).add(name)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def same_numbers(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of different names that are the same number, such as ``1`` and ``1.0``; each sorted."""
    groups: dict[Decimal, set[str]] = {}
    for name in names:
        if _NUMBER.fullmatch(name):
            groups.setdefault(Decimal(name), set()).add(name)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def in_quotes(group: Iterable[str]) -> str:
    """The names of a group in quotes, which show spaces: ``'Tumor ' and 'tumor'``."""
    return " and ".join(f"'{name}'" for name in group)


def groups_in_quotes(groups: Sequence[Iterable[str]], most: int) -> str:
    """The first ``most`` groups, each in quotes, and how many more there are."""
    shown = "; ".join(in_quotes(group) for group in groups[:most])
    return shown + (f" and {len(groups) - most} more" if len(groups) > most else "")


def listed(names: Sequence[object], most: int, *, quoted: bool = True) -> str:
    """The first ``most`` names, and how many more there are: ``'a', 'b' and 3 more``."""
    shown = ", ".join(f"'{name}'" if quoted else str(name) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
