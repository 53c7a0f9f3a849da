"""Which file of a folder belongs to which slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sgcl_cli.errors import ConfigError
from sgcl_cli.slide.annotations.files import MASKS
from sgcl_cli.slide.annotations.frames import OF_QUPATH

OUTLINES = OF_QUPATH
EXTENSIONS = (*OUTLINES, ".xml", ".csv", *MASKS)
_SHOWN = 3


@dataclass(frozen=True)
class Found:
    """The files of a folder.

    :ivar files: of each slide that has one, by slide id.
    :ivar strangers: names of those that belong to no slide.
    :ivar doubled: where several files could be a slide's, their names, by slide id.
    :ivar loosely: names of files that are a slide's only by the beginning of their name, by slide id.
    """

    files: dict[str, Path]
    strangers: tuple[str, ...]
    doubled: dict[str, tuple[str, ...]]
    loosely: dict[str, str]


def find(
    folder: Path, slide_ids: Sequence[str], slides: Sequence[Path], extensions: Sequence[str] = EXTENSIONS
) -> Found:
    """The files of slides in a folder.

    A file belongs to the slide whose id is its name up to a dot, or up to ``_mask``; of several such ids to the longest. Where a
    file has the very name of a slide, others whose names only begin so are not that slide's.

    :param slides: the slides themselves, which may lie in the same folder.
    :raises ConfigError: no such folder, or no file of any slide.
    """
    if not folder.is_dir():
        what = "a file, not a folder" if folder.exists() else "absent"
        raise ConfigError(f"{folder} is {what}", "give a folder with one file a slide, named by slide_id")
    known = {path.resolve() for path in slides}
    exact: dict[str, list[Path]] = {}
    begun: dict[str, list[Path]] = {}
    strangers: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in extensions or path.resolve() in known:
            continue
        slide_id, whole = _owner(path, slide_ids)
        if slide_id is None:
            strangers.append(path.name)
        else:
            (exact if whole else begun).setdefault(slide_id, []).append(path)
    strangers += [path.name for slide_id in set(begun) & set(exact) for path in begun.pop(slide_id)]
    chosen = exact | begun
    if not chosen:
        found = f"; it has {', '.join(strangers[:_SHOWN])}" if strangers else ""
        raise ConfigError(
            f"no file in {folder} is named by one of the slides{found}",
            f"name them <slide_id> with {', '.join(extensions)}",
        )
    return Found(
        files={slide_id: paths[0] for slide_id, paths in chosen.items() if len(paths) == 1},
        strangers=tuple(sorted(strangers)),
        doubled={slide_id: tuple(path.name for path in paths) for slide_id, paths in chosen.items() if len(paths) > 1},
        loosely={slide_id: paths[0].name for slide_id, paths in begun.items() if len(paths) == 1},
    )


def _owner(path: Path, slide_ids: Sequence[str]) -> tuple[str | None, bool]:
    """The slide that a file belongs to, and whether by its whole name."""
    known = set(slide_ids)
    stem = path.name[: -len(path.suffix)]
    parts = stem.split(".")
    for count in range(len(parts), 0, -1):
        beginning = ".".join(parts[:count])
        for candidate in (beginning, beginning.removesuffix("_mask")):
            if candidate in known:
                return candidate, count == len(parts)
    return None, False
