"""``sgcl embed --map``: the first three principal components of the features as red, green and blue, slide by slide.

Features files are opened one at a time, once for the sample and once for the picture, and read in blocks. Only the page's
small picture of a slide stays in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from sgcl_cli.artefacts import peers, store
from sgcl_cli.artefacts.features import FeatureFile, open_file
from sgcl_cli.report.cohort import picture_side
from sgcl_cli.report.maps import MapPage, SlideMap, paint, render
from sgcl_cli.stages.embed.sample import Sample

_SAMPLE = 20_000  # patches, over all slides
_TAILS = (1.0, 99.0)  # percentiles, mapped to 0 and 255
_BLOCK = 4096  # rows
_NAMED = 5


@dataclass(frozen=True)
class Palette:
    """x -> RGB: (x - mean) @ axes.T, each component scaled from ``low``..``high`` to 0..255.

    :ivar axes: float64 (3, D), unit vectors in order of decreasing variance; zeros where there are fewer components.
    :ivar shares: share of the variance of each component, (3,).
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    shares: NDArray[np.float64]

    def colours(self, features: NDArray[Any]) -> NDArray[np.uint8]:
        """Colours, uint8 (N, 3), of features (N, D)."""
        spread = np.maximum(self.high - self.low, 1e-12)
        scores = _scores(features, self.mean, self.axes)
        return np.rint(255 * np.clip((scores - self.low) / spread, 0, 1)).astype(np.uint8)


def fit(sample: NDArray[Any]) -> Palette:
    """Principal components of a sample (N, D); the largest entry of each axis is positive."""
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
    shares = np.zeros(3)
    shares[: len(found)] = np.maximum(variances[::-1], 0) / max(float(np.trace(covariance)), 1e-30)
    low, high = np.percentile(_scores(sample, mean, axes), _TAILS, axis=0)
    return Palette(mean, axes, low, high, shares)


def _scores(features: NDArray[Any], mean: NDArray[np.float64], axes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros((0, len(axes))), *((rows - mean) @ axes.T for rows in blocks(features))])


def blocks(features: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """The rows of (N, D) in order, in blocks of at most 4,096, float64."""
    for start in range(0, len(features), _BLOCK):
        yield features[start : start + _BLOCK].astype(np.float64)


def draw(
    home: Path, sources: Mapping[str, Path], seed: int, command: str, provenance: list[tuple[str, str]]
) -> list[str]:
    """Write maps/<slide_id>.png and maps.html; returns the ids of the slides that were drawn, those with patches and coordinates.

    :param sources: slide id -> its features file.
    """
    sample, counts = Sample(_SAMPLE, seed), dict[str, int]()
    for slide_id, path in sources.items():
        file = open_file(path, mapped=True)
        if len(file) and _on_slide(file):
            counts[slide_id] = len(file)
            sample.add(file.features)
    if not counts:
        return []
    palette, side, maps = fit(sample.rows), picture_side(len(counts)), []
    for slide_id, count in counts.items():
        file = open_file(sources[slide_id], mapped=True)
        corners, colours = places(file), palette.colours(file.features)
        store.write_bytes(home / "maps" / f"{slide_id}.png", paint(corners, colours))
        maps.append(SlideMap(slide_id, count, paint(corners, colours, side)))
    shares = ", ".join(f"{share:.0%}" for share in palette.shares)
    page = MapPage(
        title="What the encoder sees",
        facts=[
            f"{len(maps)} slides",
            f"{sum(counts.values()):,} patches",
            f"three components explain {palette.shares.sum():.0%} of the variance",
        ],
        note=(
            "Red, green and blue are the first three principal components of the features, fitted once to a sample of all "
            f"slides ({shares} of the variance). Similar colours are similar features, on any slide. The colours themselves have "
            "no meaning, and differences in other components are not visible."
        ),
        slides=maps,
        command=command,
        provenance=provenance,
        warnings=_not_shown([slide_id for slide_id in sources if slide_id not in counts]),
    )
    store.write_text(home / "maps.html", render(page))
    return [*counts]


def _not_shown(slides: list[str]) -> list[str]:
    more = f" and {len(slides) - _NAMED} more" if len(slides) > _NAMED else ""
    return (
        [f"Not drawn, since they have no patches with coordinates: {', '.join(slides[:_NAMED])}{more}."]
        if slides
        else []
    )


def places(file: FeatureFile) -> NDArray[np.float64]:
    """Positions of the patches, (N, 2) in patch widths: from their corners, or from the lattice where their side is unknown."""
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
