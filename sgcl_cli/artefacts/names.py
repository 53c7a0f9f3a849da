"""Checks of slide ids. Since files are named after them, they are checked wherever they are read."""

from __future__ import annotations

import unicodedata
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import TypeVar

from sgcl_cli.errors import ArtefactError

_LONGEST = 200  # most bytes of a slide id
_SHOWN = 80  # most characters of a slide id in a message

Owner = TypeVar("Owner")


def fault(slide_id: object) -> str:
    """Reason why a slide id cannot be a file name, as a predicate such as "is empty"; "" if it can."""
    if not isinstance(slide_id, str):
        return "is not a string"
    kinds = {unicodedata.category(character) for character in slide_id}
    reasons = {
        "is empty": not slide_id,
        "begins with a dot, so its files would be hidden": slide_id.startswith("."),
        "contains a slash or backslash": "/" in slide_id or "\\" in slide_id,
        "contains '..'": ".." in slide_id,
        "contains control characters": "Cc" in kinds,
        f"is longer than {_LONGEST} bytes": len(slide_id.encode("utf-8", "surrogatepass")) > _LONGEST,
        "is not valid Unicode": "Cs" in kinds,
    }
    return next((reason for reason, broken in reasons.items() if broken), "")


def shown(slide_id: object) -> str:
    """A slide id of any type for a message: shortened, in printable characters."""
    text = str(slide_id) if isinstance(slide_id, str | int | float) else type(slide_id).__name__
    short = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)


def checked(slide_id: object, path: Path) -> str:
    """Return a slide id read from a file unchanged.

    :raises ArtefactError: it cannot be a file name.
    """
    reason = fault(slide_id)
    if reason:
        raise ArtefactError(
            f"{path}: its slide id '{shown(slide_id)}' {reason}", "the file is damaged or forged; make it again"
        )
    return str(slide_id)


def of_file(path: Path) -> str:
    """Slide id of a file without one inside: its name without the suffix.

    :raises ArtefactError: the name cannot be a slide id.
    """
    reason = fault(path.stem)
    if reason:
        raise ArtefactError(f"{path}: the name of the file, which is its slide id, {reason}", "rename the file")
    return path.stem


def folded(slide_id: str) -> str:
    """Normal form of an id, equal for ids that some file systems do not distinguish (case, Unicode composition)."""
    return unicodedata.normalize("NFC", slide_id).casefold()


def shared(owners: Iterable[tuple[Hashable, Owner]]) -> list[list[Owner]]:
    """Owners grouped by id, for each id with more than one owner, in order of appearance."""
    groups: dict[Hashable, list[Owner]] = {}
    for identity, owner in owners:
        groups.setdefault(identity, []).append(owner)
    return [group for group in groups.values() if len(group) > 1]


def refuse_twins(files: Iterable[tuple[str, Path]]) -> None:
    """Check that no two files of a folder belong to one slide; ids that differ only in case count as equal.

    :raises ArtefactError: two files of one slide; both are named.
    """
    for (slide_id, first), (_, second), *_ in shared((folded(file[0]), file) for file in files):
        raise ArtefactError(
            f"{first} and {second.name} are both of slide '{slide_id}'",
            "keep one of them, or move them to separate folders",
        )
