"""``sgcl embed --map``: the first three principal components of the features as red, green and blue, slide by slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.features import FeatureFile, open_file
from sgcl_cli.report.maps import MapPage, SlideMap, paint, render

_SAMPLE = 20_000  # patches of all slides
_TAILS = (1.0, 99.0)  # percentiles that become black and full colour


@dataclass(frozen=True)
class Palette:
    """x -> RGB: (x - mean) @ axes.T, each component scaled from ``low``..``high`` to 0..255.

    :ivar axes: float64 (3, D), unit rows, of decreasing variance; rows of 0 where there are fewer components.
    :ivar shares: of the variance, (3,).
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    shares: NDArray[np.float64]

    def colours(self, features: NDArray[Any]) -> NDArray[np.uint8]:
        """uint8 (N, 3) of features (N, D)."""
        scores = (features.astype(np.float64) - self.mean) @ self.axes.T
        spread = np.maximum(self.high - self.low, 1e-12)
        return np.rint(255 * np.clip((scores - self.low) / spread, 0, 1)).astype(np.uint8)


def fit(sample: NDArray[Any]) -> Palette:
    """Principal components of a sample (N, D); signs are such that an axis' largest entry is positive."""
    rows = sample.astype(np.float64)
    mean = rows.mean(axis=0)
    covariance = np.cov(rows - mean, rowvar=False, bias=True).reshape(rows.shape[1], rows.shape[1])
    variances, vectors = np.linalg.eigh(covariance)
    axes = np.zeros((3, rows.shape[1]))
    found = vectors[:, ::-1][:, :3].T
    signs = np.sign(np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1))
    axes[: len(found)] = found * np.where(signs == 0, 1, signs)
    shares = np.zeros(3)
    shares[: len(found)] = np.maximum(variances[::-1][:3], 0) / max(float(variances.clip(0).sum()), 1e-30)
    low, high = np.percentile((rows - mean) @ axes.T, _TAILS, axis=0)
    return Palette(mean, axes, low, high, shares)


def draw(
    home: Path, sources: Mapping[str, Path], seed: int, command: str, provenance: list[tuple[str, str]]
) -> list[str]:
    """Write maps/<slide_id>.png and maps.html; the slides that have places and patches are returned.

    :param sources: slide id -> its file of features.
    """
    placed = {slide_id: path for slide_id, path in sources.items() if _count(path)}
    if not placed:
        return []
    total = sum(_count(path) for path in placed.values())
    palette = fit(np.concatenate([_sample(path, total, seed, n) for n, path in enumerate(placed.values())]))
    maps = []
    for slide_id, path in placed.items():
        file = open_file(path)
        png = paint(places(file), palette.colours(file.features))
        store.write_bytes(home / "maps" / f"{slide_id}.png", png)
        maps.append(SlideMap(slide_id, len(file), png))
    shares = ", ".join(f"{share:.0%}" for share in palette.shares)
    page = MapPage(
        title="What the encoder sees",
        facts=[
            f"{len(maps)} slides",
            f"{total:,} patches",
            f"three components hold {palette.shares.sum():.0%} of the variance",
        ],
        note=(
            "Red, green and blue are the first three principal components of the features, fitted once over a sample of all "
            f"slides ({shares} of the variance): like colours are like features, on any slide. The colours themselves mean "
            "nothing, and what the other components hold does not show."
        ),
        slides=maps,
        command=command,
        provenance=provenance,
    )
    store.write_text(home / "maps.html", render(page))
    return [*placed]


def places(file: FeatureFile) -> NDArray[np.float64]:
    """Where the patches lie, (N, 2) in patch widths: by their corners, or by the lattice where their side is unknown."""
    assert file.coords is not None
    sides = level0_sides(file)
    if sides is not None:
        return file.coords / sides
    assert file.grid is not None
    return file.grid.astype(np.float64)


def level0_sides(file: FeatureFile) -> NDArray[np.float64] | None:
    """Width and height of a patch in level-0 pixels, float64 (2,); None where the file does not tell."""
    geometry = file.geometry or {}
    side = geometry.get("patch_size_level0_xy", geometry.get("patch_size_level0"))
    return None if side is None else np.broadcast_to(np.asarray(side, np.float64), (2,))


def _count(path: Path) -> int:
    file = open_file(path)
    on_slide = file.coords is not None and (level0_sides(file) is not None or file.grid is not None)
    return len(file) if on_slide else 0


def _sample(path: Path, total: int, seed: int, number: int) -> NDArray[Any]:
    """A file's share of the sample, at least one patch."""
    features = open_file(path).features
    share = min(len(features), max(1, round(_SAMPLE * len(features) / max(total, _SAMPLE))))
    return features[np.sort(np.random.default_rng([seed, number]).permutation(len(features))[:share])]
