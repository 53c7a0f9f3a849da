"""Slide ids: each becomes the name of files, so each is checked wherever it is read, not only where it is made."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import TypeVar

from sgcl_cli.errors import ArtefactError

_LONGEST = 200  # bytes
_SHOWN = 80  # characters

Owner = TypeVar("Owner")


def fault(slide_id: object) -> str:
    """Why a slide id cannot be the name of a file, in words that follow it; "" where it can."""
    if not isinstance(slide_id, str):
        return "is not text"
    kinds = {unicodedata.category(character) for character in slide_id}
    reasons = {
        "is empty": not slide_id,
        "begins with a dot, so its files would be hidden": slide_id.startswith("."),
        "holds a slash or backslash": "/" in slide_id or "\\" in slide_id,
        "holds '..'": ".." in slide_id,
        "holds control characters": "Cc" in kinds,
        f"is longer than {_LONGEST} bytes": len(slide_id.encode("utf-8", "surrogatepass")) > _LONGEST,
        "is not valid text": "Cs" in kinds,
    }
    return next((reason for reason, broken in reasons.items() if broken), "")


def shown(slide_id: object) -> str:
    """A slide id as a message can hold it, whatever it is: short, in printable characters."""
    text = str(slide_id) if isinstance(slide_id, str | int | float) else type(slide_id).__name__
    short = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)


def checked(slide_id: object, path: Path) -> str:
    """A slide id that a file gives, as it is.

    :raises ArtefactError: it cannot be the name of a file.
    """
    reason = fault(slide_id)
    if reason:
        raise ArtefactError(
            f"{path}: its slide id '{shown(slide_id)}' {reason}", "the file is damaged or forged; make it again"
        )
    return str(slide_id)


def folded(slide_id: str) -> str:
    """Equal for ids that some file systems take for one: case and Unicode composition do not count."""
    return unicodedata.normalize("NFC", slide_id).casefold()


def shared(owners: Iterable[tuple[Hashable, Owner]]) -> list[list[Owner]]:
    """What has one and the same id: a list for each id that stands more than once, in order of appearance."""
    groups: dict[Hashable, list[Owner]] = {}
    for identity, owner in owners:
        groups.setdefault(identity, []).append(owner)
    return [group for group in groups.values() if len(group) > 1]


def refuse_twins(files: Iterable[tuple[str, Path]]) -> None:
    """See that each file of a folder is of a slide of its own; ids that differ in case alone count as one.

    :raises ArtefactError: two are of one slide; both are named.
    """
    for (slide_id, first), (_, second), *_ in shared((folded(file[0]), file) for file in files):
        raise ArtefactError(
            f"{first} and {second.name} are both of slide '{slide_id}'",
            "keep one of them, or move them to folders of their own",
        )
