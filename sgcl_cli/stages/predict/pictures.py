"""Where models looked, or what they say of each patch, drawn on the slides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.config import PredictConfig
from sgcl_cli.report import maps
from sgcl_cli.report.drawing import PALETTE
from sgcl_cli.report.page import Picture, Section
from sgcl_cli.stages.evaluate import tables
from sgcl_cli.stages.evaluate.captions import Caption
from sgcl_cli.stages.predict.applied import Applied, Rows

_MOST_ON_PAGE = 12
_PALE = 235.0


@dataclass(frozen=True)
class PredictionPictures:
    """Files relative to the output, and sections of the page."""

    files: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)


def draw(
    config: PredictConfig, card: Mapping[str, Any], rows: Rows, applied: Mapping[str, Applied]
) -> PredictionPictures:
    """Attention of the first model that has any; of patches, the class that is predicted, paler the less it is sure.

    :raises ConfigError: --patches or --slides holds none of the slides.
    """
    if rows.row is not None:
        return _classes(config, card, rows, applied)
    key = next((key for key, one in applied.items() if one.attention is not None), None)
    return PredictionPictures() if key is None else _attention(config, card, rows, applied[key])


def _attention(config: PredictConfig, card: Mapping[str, Any], rows: Rows, model: Applied) -> PredictionPictures:
    from sgcl_cli.stages.evaluate import attention as pictures  # OpenCV comes with it

    assert model.attention is not None
    out, files, seen = Path(config.out), [], []
    for file, attention, predicted in zip(rows.files, model.attention, model.mean, strict=True):
        name = f"attention/{file.path.stem}.csv"
        store.write_text(out / name, tables.attention_csv(file.coords, attention))
        files.append(name)
        seen.append(pictures.Seen(file.slide_id, file, _caption(card, predicted), attention))
    whose = f"{model.name}, the mean of its folds. "
    drawn, sections = pictures.draw(out, seen, config.patches, folder=config.slides, whose=whose)
    return PredictionPictures([*files, *drawn], sections)


def _caption(card: Mapping[str, Any], predicted: NDArray[np.float64]) -> Caption:
    if card["classes"]:
        place = int(predicted.argmax())
        name = card["classes"][place]
        return Caption(
            f"slides called {name}", float(predicted[place]), f"{name} with {100 * predicted[place]:.0f}\u00a0%"
        )
    what = "log risk" if card["task"] == "survival" else "value"
    return Caption("slides", float(abs(predicted[0])), f"predicted {what} {predicted[0]:.4g}")


def _classes(
    config: PredictConfig, card: Mapping[str, Any], rows: Rows, applied: Mapping[str, Applied]
) -> PredictionPictures:
    assert rows.row is not None
    key, model = next(iter(applied.items()))
    out, files = Path(config.out), []
    pictures: list[Picture] = []
    mean = model.mean
    for number, file in enumerate(rows.files):
        side = (file.geometry or {}).get("patch_size_level0")
        if file.coords is None or side is None:
            continue
        own = mean[rows.file_of == number]
        png = maps.paint(file.coords / float(side), colours(own))
        name = f"maps/{file.path.stem}.png"
        store.write_bytes(out / name, png)
        files.append(name)
        if len(pictures) < _MOST_ON_PAGE:
            counts = np.bincount(own.argmax(1), minlength=len(card["classes"]))
            said = ", ".join(
                f"{count} {label}" for label, count in zip(card["classes"], counts.tolist(), strict=True) if count
            )
            pictures.append(Picture(file.slide_id, f"{file.slide_id}: {said}.", png))
    legend = ", ".join(f"{name} {PALETTE[i % len(PALETTE)]}" for i, name in enumerate(card["classes"]))
    note = f"{model.name} ({key}): the predicted class of each patch, paler the less it is sure. Colours: {legend}."
    return PredictionPictures(
        files, [Section("What it says of each patch", pictures, notes=[note])] if pictures else []
    )


def colours(probability: NDArray[np.float64]) -> NDArray[np.uint8]:
    """uint8 (n, 3) of probabilities (n, K): the colour of the likeliest class, grey where all classes are as likely."""
    classes = probability.shape[1]
    palette = np.array(
        [[int(PALETTE[i % len(PALETTE)][k : k + 2], 16) for k in (1, 3, 5)] for i in range(classes)], float
    )
    best = probability.argmax(1)
    sure = ((probability.max(1) - 1 / classes) / (1 - 1 / classes))[:, None]
    tinted: NDArray[np.uint8] = np.rint(_PALE + sure * (palette[best] - _PALE)).astype(np.uint8)
    return tinted
