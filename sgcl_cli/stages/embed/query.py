"""``sgcl embed --query``: the patches with the features most similar to those of one patch, on any slide.

Files are opened one after the other and read in blocks; memory holds the best patches found so far and one block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.features import FeatureFile, open_file
from sgcl_cli.errors import ConfigError
from sgcl_cli.report.maps import Tile, montage
from sgcl_cli.stages.embed.maps import blocks, level0_sides

_NOTES = (
    "Under each patch: its slide, the cosine of its features with those of the query (1: the same direction), and its top-left "
    "corner, x and y in level-0 pixels. Most similar first; patches that overlap the query are left out.",
    "Good features find the same kind of tissue on several slides. If only patches of its own slide or stain come up, the "
    "features hold the slide more than the tissue.",
)

Show = Callable[[str, tuple[int, int]], NDArray[np.uint8]]


@dataclass(frozen=True)
class Hit:
    """A patch.

    :ivar corner: x and y of its top-left corner, level-0 pixels.
    :ivar similarity: the cosine of its features with those of the query.
    """

    slide_id: str
    corner: tuple[int, int]
    similarity: float


def find(sources: Mapping[str, Path], slide_id: str, x: float, y: float, top: int) -> list[Hit]:
    """The patch at a point, then the ``top`` patches most similar to it, best first, without those that overlap it.

    :param x, y: in level-0 pixels.
    :raises ConfigError: there is no such slide, or no patch at the point.
    """
    if slide_id not in sources:
        raise ConfigError(f"--query: there are no features of slide {slide_id}", f"slides: {', '.join([*sources][:5])}")
    file = open_file(sources[slide_id], mapped=True)
    row = _at(file, x, y)
    assert file.coords is not None
    query, corner, sides = (
        _unit(file.features[row : row + 1].astype(np.float64))[0],
        file.coords[row],
        level0_sides(file),
    )
    found: list[Hit] = []
    for name, path in sources.items():
        other = file if name == slide_id else open_file(path, mapped=True)
        if other.coords is None or not len(other):
            continue
        similarity = np.concatenate([_unit(rows) @ query for rows in blocks(other.features)])
        if name == slide_id and sides is not None:
            similarity[(np.abs(other.coords - corner) < sides).all(axis=1)] = -np.inf
        best = np.argsort(-similarity, kind="stable")[:top]
        found += [Hit(name, _pair(other.coords[n]), float(similarity[n])) for n in best if np.isfinite(similarity[n])]
        found = sorted(found, key=lambda hit: (-hit.similarity, hit.slide_id, hit.corner))[:top]
    return [Hit(slide_id, _pair(corner), 1.0), *found]


def write(home: Path, hits: list[Hit], show: Show) -> Path:
    """Write query_<slide_id>_<x>_<y>.csv and .png.

    :param show: slide id and corner -> the pixels of the patch.
    :returns: the path of the picture.
    """
    first = hits[0]
    stem = home / f"query_{first.slide_id}_{first.corner[0]}_{first.corner[1]}"
    rows: list[dict[str, Any]] = [
        {"rank": rank, "slide_id": hit.slide_id, "x": hit.corner[0], "y": hit.corner[1], "similarity": hit.similarity}
        for rank, hit in enumerate(hits)
    ]
    store.write_csv(stem.with_name(stem.name + ".csv"), ("rank", "slide_id", "x", "y", "similarity"), rows)
    tiles = [
        Tile.of(
            show(hit.slide_id, hit.corner),
            hit.slide_id,
            f"cosine {hit.similarity:.3f}" if rank else "query",
            f"x {hit.corner[0]}, y {hit.corner[1]}",
        )
        for rank, hit in enumerate(hits)
    ]
    picture = stem.with_name(stem.name + ".png")
    store.write_bytes(picture, montage(tiles, f"The {len(hits) - 1} patches most similar to the query", _NOTES))
    return picture


def _at(file: FeatureFile, x: float, y: float) -> int:
    """The row of the patch that holds a point; of several, that with the nearest centre."""
    sides = level0_sides(file)
    if file.coords is None or sides is None:
        raise ConfigError(f"--query: the features of {file.slide_id} have no coordinates", "embed patches of slides")
    inside = ((file.coords <= (x, y)) & (file.coords + sides > (x, y))).all(axis=1)
    distance = np.linalg.norm(file.coords + sides / 2 - (x, y), axis=1)
    if not inside.any():
        near = (
            f"; the nearest begins at {','.join(map(str, file.coords[distance.argmin()].tolist()))}"
            if len(file)
            else ""
        )
        raise ConfigError(f"--query: {file.slide_id} has no patch at {x:g},{y:g}{near}", "give a position on tissue")
    return int(np.where(inside, distance, np.inf).argmin())


def _unit(rows: NDArray[Any]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit


def _pair(corner: NDArray[np.int64]) -> tuple[int, int]:
    return int(corner[0]), int(corner[1])
