"""Matching of names in tables to slide ids: exactly, or without a file suffix, or without a spreadsheet's ``.0``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_SUFFIXES = (
    ".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".vms", ".vmu", ".scn", ".bif", ".svslide", ".czi", ".dcm", ".ome.zarr",
    ".zarr", ".h5", ".pt", ".npy",
)  # fmt: skip
_FLOAT = ".0"


def plain_id(text: str) -> str:
    """A name without its file suffix, which tables often include: ``007.svs`` -> ``007``."""
    lower = text.lower()
    for suffix in _SUFFIXES:
        if lower.endswith(suffix) and len(text) > len(suffix):
            return text[: -len(suffix)]
    return text


@dataclass(frozen=True)
class Names:
    """Known slide ids, and the form in which a table has them.

    :ivar known: slide ids.
    :ivar alone: plain id -> slide id, for plain ids of exactly one slide.
    :ivar floats: whether the table has ids as floats, as written by spreadsheets, ``1018.0`` for ``1018``.
    """

    known: frozenset[str]
    alone: dict[str, str]
    floats: bool = False

    @classmethod
    def of(cls, known: Iterable[str], texts: Sequence[str]) -> Names:
        """Build for a table with the names ``texts``; they are floats if all names without a match have one without ``.0``."""
        ids = frozenset(known)
        plain: dict[str, list[str]] = {}
        for one in sorted(ids):
            plain.setdefault(plain_id(one), []).append(one)
        found = cls(ids, {name: ones[0] for name, ones in plain.items() if len(ones) == 1})
        unmatched = [text for text in texts if text and found.slide(text) not in ids]
        floats = bool(unmatched) and all(text.endswith(_FLOAT) and text[:-2] in ids for text in unmatched)
        return cls(ids, found.alone, floats)

    def slide(self, text: str) -> str:
        """Slide id for a name in the table; without a match, the name without its file suffix."""
        if text in self.known:
            return text
        plain = plain_id(text)
        if plain in self.known:
            return plain
        if self.floats and text.endswith(_FLOAT) and text[: -len(_FLOAT)] in self.known:
            return text[: -len(_FLOAT)]
        return self.alone.get(plain, plain)
