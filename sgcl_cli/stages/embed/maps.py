"""``sgcl embed --map``: the first three principal components of the features, each as a map beside the tissue of its slide.

Files are opened one after the other, once for the sample and once for the picture, and read in blocks, so memory is bounded by
the sample and the page's small pictures whatever the number of slides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from sgcl_cli.artefacts import peers, store
from sgcl_cli.artefacts.features import FeatureFile, open_file
from sgcl_cli.artefacts.spelling import listed
from sgcl_cli.report.cohort import picture_side
from sgcl_cli.report.maps import MapPage, Panel, SlideMap, combined, crop, paint, render, shade
from sgcl_cli.stages.embed.sample import Sample

_SAMPLE = 20_000  # patches of all slides
_BLOCK = 4096  # rows
_NAMED = 5
_PANEL_SIDE = 900  # pixels of a panel of maps/<slide_id>.png, at most

Picture = Callable[[str], NDArray[np.uint8] | None]


@dataclass(frozen=True)
class Components:
    """The first principal components of a sample of all slides: x -> (x - mean) @ axes.T / deviation.

    :ivar axes: float64 (3, D), unit rows, of decreasing variance; rows of 0 where there are fewer components.
    :ivar deviation: standard deviation of the sample along each axis, (3,).
    :ivar shares: of the variance, (3,).
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    deviation: NDArray[np.float64]
    shares: NDArray[np.float64]

    def scores(self, features: NDArray[Any]) -> NDArray[np.float64]:
        """Scores (N, 3) of features (N, D), in standard deviations from the mean."""
        return _projected(features, self.mean, self.axes) / np.maximum(self.deviation, 1e-12)


def fit(sample: NDArray[Any]) -> Components:
    """Principal components of a sample (N, D); the sign of an axis is such that its largest entry is positive."""
    count, dim = sample.shape
    mean = sample.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((dim, dim))
    for rows in blocks(sample):
        centred = rows - mean
        covariance += centred.T @ centred / count
    variances, vectors = scipy.linalg.eigh(covariance, subset_by_index=(max(0, dim - 3), dim - 1))
    axes = np.zeros((3, dim))
    found = vectors[:, ::-1].T
    signs = np.sign(np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1))
    axes[: len(found)] = found * np.where(signs == 0, 1, signs)
    spread = np.zeros(3)
    spread[: len(found)] = np.maximum(variances[::-1], 0)
    return Components(mean, axes, np.sqrt(spread), spread / max(float(np.trace(covariance)), 1e-30))


def _projected(features: NDArray[Any], mean: NDArray[np.float64], axes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros((0, len(axes))), *((rows - mean) @ axes.T for rows in blocks(features))])


def blocks(features: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """The rows (N, D) in order, some thousand at a time, float64."""
    for start in range(0, len(features), _BLOCK):
        yield features[start : start + _BLOCK].astype(np.float64)


def draw(
    home: Path,
    sources: Mapping[str, Path],
    seed: int,
    command: str,
    provenance: list[tuple[str, str]],
    *,
    picture: Picture = lambda slide_id: None,
) -> list[str]:
    """Write maps/<slide_id>.png and maps.html.

    :param sources: slide id -> its file of features.
    :param picture: slide id -> the whole slide, uint8 (H, W, 3), or None where there is no picture of it.
    :returns: the slides that are drawn: those with patches and their places.
    """
    sample, counts = Sample(_SAMPLE, seed), dict[str, int]()
    for slide_id, path in sources.items():
        file = open_file(path, mapped=True)
        if len(file) and _on_slide(file):
            counts[slide_id] = len(file)
            sample.add(file.features)
    if not counts:
        return []
    components, side, maps = fit(sample.rows), picture_side(len(counts)), list[SlideMap]()
    for slide_id, count in counts.items():
        file = open_file(sources[slide_id], mapped=True)
        scores, tissue = components.scores(file.features), picture(slide_id)
        large = _panels(file, scores, components, tissue, _PANEL_SIDE)
        store.write_bytes(home / "maps" / f"{slide_id}.png", combined(slide_id, large))
        maps.append(SlideMap(slide_id, count, _panels(file, scores, components, tissue, side)))
    page = MapPage(
        title="Feature maps",
        facts=[
            f"{len(maps)} slide{'s' if len(maps) > 1 else ''}",
            f"{sum(counts.values()):,} patches",
            f"three components hold {components.shares.sum():.0%} of the variance",
        ],
        notes=_notes(components),
        slides=maps,
        command=command,
        provenance=provenance,
        warnings=[
            *_named(
                "No map, because there are no patches with coordinates", [one for one in sources if one not in counts]
            ),
            *_named("No picture of the tissue was found", [one.slide_id for one in maps if len(one.panels) == 3]),
        ],
    )
    store.write_text(home / "maps.html", render(page))
    return [*counts]


def _notes(components: Components) -> list[str]:
    """How to read the maps."""
    first, second, third = (f"{share:.0%}" for share in components.shares)
    return [
        "Each map shows the score of every patch on one principal component of the features. The components were fitted once, on "
        f"a sample of all slides, and hold {first}, {second} and {third} of the variance; a colour means the same on all slides.",
        "Good features follow the tissue: a kind of tissue has one colour wherever it occurs, and its borders are borders in "
        "a map. If whole slides differ in colour instead, the features hold stain or scanner more than tissue. The sign of a "
        "component is arbitrary: yellow is not better than violet.",
    ]


def _panels(
    file: FeatureFile,
    scores: NDArray[np.float64],
    components: Components,
    tissue: NDArray[np.uint8] | None,
    side: int,
) -> list[Panel]:
    """The tissue, where there is a picture of it, and a map a component, in one frame.

    :param scores: (N, 3). :param tissue: the whole slide, uint8 (H, W, 3). :param side: pixels of the longer side, at most.
    """
    corners = places(file)
    maps = [
        Panel(f"component {number + 1} ({share:.0%})", paint(corners, shade(scores[:, number]), side))
        for number, share in enumerate(components.shares)
    ]
    frame = _frame(file, corners)
    if tissue is None or frame is None:
        return maps
    return [Panel.of("tissue", crop(tissue, frame, maps[0].image.size)), *maps]


def _frame(file: FeatureFile, corners: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The part of the slide that has patches: left, top, right, bottom as shares of its width and height, float64 (4,).

    None if the size of the slide or of a patch is not recorded.
    """
    size = [float((file.geometry or {}).get(f"level0_{name}", 0)) for name in ("width", "height")]
    sides = level0_sides(file)
    if sides is None or min(size) <= 0:
        return None
    return np.concatenate([corners.min(axis=0) * sides / size, (corners.max(axis=0) + 1) * sides / size])


def _named(reason: str, slides: list[str]) -> list[str]:
    return [f"{reason}: {listed(slides, _NAMED, quoted=False)}."] if slides else []


def places(file: FeatureFile) -> NDArray[np.float64]:
    """Top-left corners of the patches, (N, 2) in patch widths: their lattice cells where the side of a patch is unknown."""
    assert file.coords is not None
    sides = level0_sides(file)
    if sides is not None:
        return file.coords / sides
    assert file.grid is not None
    return file.grid.astype(np.float64)


def level0_sides(file: FeatureFile) -> NDArray[np.float64] | None:
    """Width and height of a patch in level-0 pixels, float64 (2,); None where the file does not record them."""
    return peers.sides(file.geometry or {})


def _on_slide(file: FeatureFile) -> bool:
    return file.coords is not None and (level0_sides(file) is not None or file.grid is not None)
