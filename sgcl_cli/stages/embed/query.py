"""``sgcl embed --query``: the patches, of any slide, with the features most similar to those of one patch.

Features files are opened one at a time and read in blocks; only the best ``top`` patches so far are kept.
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

Show = Callable[[str, tuple[int, int]], NDArray[np.uint8]]


@dataclass(frozen=True)
class Hit:
    """A patch: its slide, its top-left corner in level-0 pixels, and the cosine similarity of its features to the query's."""

    slide_id: str
    corner: tuple[int, int]
    similarity: float


def find(sources: Mapping[str, Path], slide_id: str, x: float, y: float, top: int) -> list[Hit]:
    """The patch at (x, y), then the ``top`` patches most similar to it in decreasing order; patches that overlap it are left out.

    :param sources: slide id -> its features file.
    :param x, y: level-0 pixels.
    :raises ConfigError: there is no such slide, or no patch at this position.
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
    """Write query_<slide_id>_<x>_<y>.csv and .png; returns the path of the picture.

    :param show: slide id and corner -> the patch, uint8 (size, size, 3).
    """
    first = hits[0]
    stem = home / f"query_{first.slide_id}_{first.corner[0]}_{first.corner[1]}"
    rows: list[dict[str, Any]] = [
        {"rank": rank, "slide_id": hit.slide_id, "x": hit.corner[0], "y": hit.corner[1], "similarity": hit.similarity}
        for rank, hit in enumerate(hits)
    ]
    store.write_csv(stem.with_name(stem.name + ".csv"), ("rank", "slide_id", "x", "y", "similarity"), rows)
    tiles = [
        Tile.of(show(hit.slide_id, hit.corner), hit.slide_id, f"{hit.similarity:.3f}" if rank else "query")
        for rank, hit in enumerate(hits)
    ]
    picture = stem.with_name(stem.name + ".png")
    store.write_bytes(picture, montage(tiles))
    return picture


def _at(file: FeatureFile, x: float, y: float) -> int:
    """The row of the patch that contains (x, y); if several do, of the one with the nearest centre."""
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
