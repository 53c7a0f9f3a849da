"""The pictures of a pretraining run: views.png at its start, curves.png and neighbours.png at its end.

Each function draws one file and returns its warnings; without matplotlib that is one warning and no file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sgcl_cli.artefacts.patches import PatchFile, PatchIndex
from sgcl_cli.engine.loader import StoredPatches, decode_jpeg
from sgcl_cli.engine.views import ViewSettings, denormalise, make_views
from sgcl_cli.errors import ArtefactError
from sgcl_cli.method.gallery import AnchorExamples, Shown, anchors, gallery
from sgcl_cli.method.objective import Objective
from sgcl_cli.method.sgcl import SGCL
from sgcl_cli.stages.pretrain.warnings import TrainingWarning, WarningKind

_PATCHES = 6
_VIEWS = 3
_ANCHORS = 4
_SHOWN = 8
_CANDIDATES = 16
_NO_PICTURES = TrainingWarning(
    WarningKind.NO_PICTURES,
    "matplotlib is not installed: views.png, curves.png and neighbours.png are skipped; "
    "metrics.jsonl has the numbers of the curves",
)
_KINDS = (
    ("spatial", "spatial positives"),
    ("propagated", "propagated positives"),
    ("negatives", "negatives"),
    ("nearest", "nearest in the bank"),
)


def picture_views(
    index: PatchIndex, settings: ViewSettings, out: Path, *, seed: int, corners: bool
) -> list[TrainingWarning]:
    """Draw views.png: patches with much tissue, from different slides if possible, and their views in the first epochs."""

    def draw() -> None:
        from sgcl_cli.report.views import ShownViews, draw_views

        chosen = _rich_in_tissue(index, _PATCHES, seed)
        patches = torch.from_numpy(np.stack([StoredPatches(index)(int(i)) for i in chosen]))
        drawn = [
            make_views(patches, chosen, settings=settings, seed=seed, epoch=epoch, corners=corners and epoch == 0)
            for epoch in range(_VIEWS)
        ]
        wholes = [denormalise(views.whole) for views in drawn]
        first = drawn[0].corners
        quarters = [] if first is None else [denormalise(quarter) for quarter in first]
        rows = [
            ShownViews(
                name=index.locate(int(i))[0].slide_id[:20],
                patch=patches[row].numpy(),
                views=[whole[row] for whole in wholes],
                corners=[quarter[row] for quarter in quarters],
            )
            for row, i in enumerate(chosen)
        ]
        draw_views(rows, out / "views.png", note=_strengths(settings, corners))

    return _drawn(draw)


def picture_curves(metrics: Path, out: Path) -> list[TrainingWarning]:
    """Draw curves.png from metrics.jsonl."""

    def draw() -> None:
        from sgcl_cli.report.curves import draw_curves, read_metrics

        draw_curves(read_metrics(metrics), out / "curves.png")

    return _drawn(draw)


def picture_neighbours(index: PatchIndex, objective: Objective, out: Path, *, step: int) -> list[TrainingWarning]:
    """Draw neighbours.png: anchors with their positives and negatives, from the banks and clusters after ``step`` steps.

    Nothing is drawn for objectives other than SGCL with a bank of v.
    """
    if not isinstance(objective, SGCL) or objective.bank_v is None:
        return []

    def draw() -> None:
        from sgcl_cli.report.neighbours import draw_neighbours

        chosen = anchors(objective, torch.from_numpy(index.slide_of), _ANCHORS)
        examples = gallery(objective, chosen, step=step, most=_SHOWN)
        draw_neighbours([_anchor(index, one) for one in examples], out / "neighbours.png")

    return _drawn(draw)


def _drawn(draw: Callable[[], None]) -> list[TrainingWarning]:
    try:
        draw()
    except ImportError:
        return [_NO_PICTURES]
    return []


def _rich_in_tissue(index: PatchIndex, count: int, seed: int) -> NDArray[np.int64]:
    """From each of ``count`` strips of the index the patch with most tissue among some candidates: int64, ascending."""
    draw = np.random.default_rng([seed, len(index)])
    tissue = np.concatenate([file.tissue for file in index.files])
    chosen = []
    for strip in np.array_split(np.arange(len(index)), min(count, len(index))):
        some = draw.choice(strip, min(_CANDIDATES, len(strip)), replace=False)
        chosen.append(int(some[np.argmax(tissue[some])]))
    return np.array(chosen, np.int64)


def _strengths(settings: ViewSettings, corners: bool) -> str:
    low, high = settings.crop
    text = [f"view {settings.view} px from {low:g} to {high:g} of the area"]
    if corners:
        low, high = settings.corner_crop
        text.append(f"corner {settings.corner} px from {low:g} to {high:g} of a quarter")
    names = ("brightness", "contrast", "saturation", "hue", "grayscale", "flip", "vertical_flip", "rotate90")
    for name in (*names, "stain_scale", "stain_shift"):
        if getattr(settings, name) > 0:
            text.append(f"{name.replace('_', ' ')} {getattr(settings, name):g}")
    return ", ".join(text)


def _anchor(index: PatchIndex, examples: AnchorExamples) -> Any:
    from sgcl_cli.report.neighbours import Anchor, NeighbourRow

    file, row = index.locate(examples.anchor)
    first = int(index.starts[index.slide_of[examples.anchor]])
    centres: NDArray[np.float64] = file.coords.astype(np.float64) + file.sides / 2
    kinds: list[tuple[str, Shown]] = [(name, getattr(examples, kind)) for kind, name in _KINDS]
    rows = [
        NeighbourRow(
            name=_count(name, shown),
            pictures=[_picture(index, i) for i in shown.index.tolist()],
            captions=[f"{value:.3f}" for value in shown.similarity.tolist()],
            elsewhere=[not _own(first, file, i) for i in shown.index.tolist()],
            places=centres[[i - first for i in shown.index.tolist() if _own(first, file, i)]],
        )
        for name, shown in kinds
    ]
    thumbnail, extent = _thumbnail(file)
    return Anchor(
        file.slide_id,
        _picture(index, examples.anchor),
        tuple(centres[row]),
        centres,
        float(file.sides[0]),
        thumbnail,
        extent,
        rows,
        _mpp(file),
    )


def _mpp(file: PatchFile) -> float | None:
    """µm per level-0 pixel; None where it is not recorded."""
    recorded = file.geometry.get("mpp_level0")
    return None if recorded is None else float(recorded)


def _count(name: str, shown: Shown) -> str:
    return f"{name}: none" if shown.total == 0 else f"{name}, {len(shown.index)} of {shown.total:,}"


def _own(first: int, file: PatchFile, i: int) -> bool:
    return first <= i < first + len(file)


def _picture(index: PatchIndex, i: int) -> NDArray[np.uint8]:
    return StoredPatches(index)(i)


def _thumbnail(file: PatchFile) -> tuple[NDArray[np.uint8] | None, tuple[float, float]]:
    """The slide's thumbnail where sgcl tile left one, and the slide's level-0 (width, height)."""
    path = file.path.parent.parent / "thumbnails" / f"{file.slide_id}.jpg"
    width, height = (float(file.geometry.get(f"level0_{name}", 0)) for name in ("width", "height"))
    if width <= 0 or height <= 0 or not path.is_file():
        return None, (width, height)
    try:
        return decode_jpeg(path.read_bytes(), str(path)), (width, height)
    except (ArtefactError, OSError):
        return None, (width, height)
