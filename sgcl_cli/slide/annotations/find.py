"""Matching of annotation files to slides by name."""

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
    """The annotation files of a folder.

    :ivar files: the file of each slide that has exactly one, by slide id.
    :ivar strangers: names of files that belong to no slide.
    :ivar doubled: names of the files of each slide that has several, by slide id.
    :ivar loosely: names of files that match a slide id only by the beginning of their name, by slide id.
    """

    files: dict[str, Path]
    strangers: tuple[str, ...]
    doubled: dict[str, tuple[str, ...]]
    loosely: dict[str, str]


def find(
    folder: Path, slide_ids: Sequence[str], slides: Sequence[Path], extensions: Sequence[str] = EXTENSIONS
) -> Found:
    """Match the files of a folder to slides.

    A file belongs to the slide with an id equal to its name up to a dot, or up to ``_mask``; if there are several, to the
    longest id. If the full name (without extension) of a file is a slide id, files that only begin with that id do not belong
    to the slide.

    :param slide_ids: of all slides.
    :param slides: paths of the slides, which are skipped if they are in the same folder.
    :param extensions: of files to consider.
    :raises ConfigError: the folder does not exist, or has no file of any slide.
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
    """The id of the slide that a file belongs to, and whether its full name matched."""
    known = set(slide_ids)
    stem = path.name[: -len(path.suffix)]
    parts = stem.split(".")
    for count in range(len(parts), 0, -1):
        beginning = ".".join(parts[:count])
        for candidate in (beginning, beginning.removesuffix("_mask")):
            if candidate in known:
                return candidate, count == len(parts)
    return None, False
