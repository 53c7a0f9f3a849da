"""Heatmaps of predictions: attention and scores of patches for models of slides, predicted classes for models of patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.config import PredictConfig
from sgcl_cli.report import maps
from sgcl_cli.report.page import Picture, Section
from sgcl_cli.slide import colours as class_colours
from sgcl_cli.slide import overlay
from sgcl_cli.stages.evaluate.captions import Caption
from sgcl_cli.stages.evaluate.patch_scores import ShownScores, shown
from sgcl_cli.stages.evaluate.tables import score_columns
from sgcl_cli.stages.predict.applied import Applied, Rows

if TYPE_CHECKING:
    from sgcl_cli.stages.evaluate.places import Places

FILES = (  # of a former prediction, as glob patterns
    "maps/*.png",
    "maps/*.jpg",
    "figures/montage_*.jpg",
    *(f"{folder}/*.{kind}" for folder in ("attention", "scores") for kind in ("csv", "jpg")),
)

_MOST_ON_PAGE = 12
_REPORTED_SIDE = 760
_QUALITY = 85
_PALE = 235.0


@dataclass(frozen=True)
class PredictionPictures:
    """Pictures that were drawn.

    :ivar files: relative to the output.
    :ivar sections: of the page.
    """

    files: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)


def draw(
    config: PredictConfig, card: Mapping[str, Any], rows: Rows, applied: Mapping[str, Applied]
) -> PredictionPictures:
    """Draw attention of the first model that has it, and scores of patches; for models of patches the predicted classes, paler
    where they are less certain.

    :param card: the card of the models.
    :param applied: predictions by model.
    :raises ConfigError: --patches or --slides holds none of the slides.
    """
    if rows.row is not None:
        return _classes(config, card, rows, applied)
    looked = next((one for one in applied.values() if one.attention is not None), None)
    scored = next((one for one in applied.values() if one.patches is not None), None)
    return _heatmaps(config, card, rows, looked, scored)


def _heatmaps(
    config: PredictConfig, card: Mapping[str, Any], rows: Rows, looked: Applied | None, scored: Applied | None
) -> PredictionPictures:
    from sgcl_cli.stages.evaluate import attention as heatmaps  # OpenCV comes with it

    probable = looked or scored
    if probable is None:
        return PredictionPictures()
    scores = _scores(card, rows, scored)
    seen = [
        heatmaps.Seen(
            file.slide_id,
            file,
            _caption(card, probable.mean[i]),
            None if looked is None or looked.attention is None else looked.attention[i],
            scores.get(file.slide_id),
        )
        for i, file in enumerate(rows.files)
    ]
    out, files = Path(config.out), list[str]()
    columns = score_columns(card["task"], card["classes"])
    for i, slide in enumerate(seen):
        numbers = None if scored is None or scored.patches is None else scored.patches[i]
        files += heatmaps.write_numbers(out, slide, numbers, columns)
    whose, scored_by = (f"{one.name}, the mean of its folds. " if one else "" for one in (looked, scored))
    drawn, sections = heatmaps.draw(out, seen, config.patches, folder=config.slides, whose=whose, scored_by=scored_by)
    return PredictionPictures([*files, *drawn], sections)


def _scores(card: Mapping[str, Any], rows: Rows, scored: Applied | None) -> dict[str, ShownScores]:
    """The displayed scores of patches, by slide."""
    if scored is None or scored.patches is None:
        return {}
    slides = [file.slide_id for file in rows.files]
    return shown(
        dict(zip(slides, scored.patches, strict=True)),
        task=card["task"],
        classes=card["classes"],
        called=dict(zip(slides, scored.mean.argmax(1).tolist(), strict=True)),
        groups=dict.fromkeys(slides, ""),
    )


def _caption(card: Mapping[str, Any], predicted: NDArray[np.float64]) -> Caption:
    if card["classes"]:
        place = int(predicted.argmax())
        name = card["classes"][place]
        return Caption(
            f"slides predicted as {name}",
            float(predicted[place]),
            f"predicted as {name} with a probability of {100 * predicted[place]:.0f}\u00a0%",
        )
    what = "log risk" if card["task"] == "survival" else "value"
    return Caption("slides", float(abs(predicted[0])), f"predicted {what} {predicted[0]:.4g}")


def _classes(
    config: PredictConfig, card: Mapping[str, Any], rows: Rows, applied: Mapping[str, Applied]
) -> PredictionPictures:
    """maps/: patches in the colours of their predicted classes, on a picture of the slide where one is found."""
    from sgcl_cli.stages.evaluate.places import Places  # OpenCV comes with it

    assert rows.row is not None
    key, model = next(iter(applied.items()))
    out, files, places = Path(config.out), [], Places(config.patches, config.slides)
    pictures: list[Picture] = []
    mean = model.mean
    for number, file in enumerate(rows.files):
        own = mean[rows.file_of == number]
        drawn = _map(places, file, colours(own))
        if drawn is None:
            continue
        suffix, content = drawn
        files.append(f"maps/{file.path.stem}.{suffix}")
        store.write_bytes(out / files[-1], content)
        if len(pictures) < _MOST_ON_PAGE:
            counts = np.bincount(own.argmax(1), minlength=len(card["classes"]))
            summary = ", ".join(
                f"{count} {label}" for label, count in zip(card["classes"], counts.tolist(), strict=True) if count
            )
            small = content if suffix == "png" else overlay.reduced(content, _REPORTED_SIDE, 80)
            pictures.append(Picture(file.slide_id, f"{file.slide_id}: {summary}.", small))
    places.check()
    note = (
        f"{model.name} ({key}): patches in the colour of their predicted class, paler where the model is less certain."
    )
    legend = [(name, class_colours.hexadecimal(class_colours.of_class(i))) for i, name in enumerate(card["classes"])]
    section = Section("Predicted class of each patch", pictures, notes=[note], classes=legend)
    return PredictionPictures(files, [section] if pictures else [])


def _map(places: Places, file: FeatureFile, rgb: NDArray[np.uint8]) -> tuple[str, bytes] | None:
    """Coloured patches on a picture of the slide (JPEG), or without one (PNG); None where coordinates are unknown.

    :returns: the suffix of the file and its content.
    """
    from sgcl_cli.report import attention as drawing
    from sgcl_cli.slide import jpeg
    from sgcl_cli.stages.evaluate.places import sides_of

    placed = places.of(file)
    if placed is not None:
        return "jpg", jpeg.encode(drawing.painted(placed, rgb), _QUALITY)
    sides = sides_of(file)
    if file.coords is None or sides is None:
        return None
    return "png", maps.paint(file.coords / sides, rgb)


def colours(probability: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours uint8 (n, 3) of probabilities (n, K): that of the most probable class, grey where all are equally probable."""
    classes = probability.shape[1]
    palette = np.array([class_colours.of_class(i) for i in range(classes)], float)
    best = probability.argmax(1)
    sure = ((probability.max(1) - 1 / classes) / (1 - 1 / classes))[:, None]
    tinted: NDArray[np.uint8] = np.rint(_PALE + sure * (palette[best] - _PALE)).astype(np.uint8)
    return tinted
