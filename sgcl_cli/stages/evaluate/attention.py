"""Heatmaps of attention and of scores of patches on slides, and montages of the patches with most and least attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.artefacts.patches import PatchFile
from sgcl_cli.artefacts.spelling import listed
from sgcl_cli.report import attention as drawing
from sgcl_cli.report.page import Picture, Section
from sgcl_cli.slide import jpeg, overlay
from sgcl_cli.stages.evaluate.captions import Caption
from sgcl_cli.stages.evaluate.patch_scores import ShownScores
from sgcl_cli.stages.evaluate.places import Places, decoded
from sgcl_cli.stages.evaluate.tables import patches_csv

ATTENTION, SCORES = "attention", "scores"
_QUALITY = 85
_REPORTED_SIDE = 760  # pixels of an overlay within the report
_MOST_IN_REPORT = 8
_COLUMNS = 8


@dataclass(frozen=True)
class Seen:
    """A slide with heatmaps.

    :ivar slide_id: of the slide.
    :ivar file: its features.
    :ivar caption: of its pictures.
    :ivar attention: of its patches, (N,); None without attention.
    :ivar scores: of its patches; None without scores.
    """

    slide_id: str
    file: FeatureFile
    caption: Caption
    attention: NDArray[np.float32] | None
    scores: ShownScores | None = None

    def picture(self, kind: str) -> str:
        """The file of a heatmap, relative to the result.

        :param kind: ATTENTION or SCORES.
        """
        return f"{kind}/{self.file.path.stem}.jpg"

    def table(self, kind: str) -> str:
        """The file of the numbers of a heatmap, relative to the result."""
        return f"{kind}/{self.file.path.stem}.csv"


def write_numbers(out: Path, slide: Seen, scores: NDArray[np.float64] | None, columns: Sequence[str]) -> list[str]:
    """Write the tables of the heatmaps of a slide and return their files.

    :param scores: of its patches, (N, K), with the names ``columns``; None without scores.
    """
    tables: dict[str, Mapping[str, NDArray[np.floating]]] = {}
    if slide.attention is not None:
        tables[slide.table(ATTENTION)] = {"attention": slide.attention}
    if scores is not None:
        tables[slide.table(SCORES)] = dict(zip(columns, scores.T, strict=True))
    for name, numbers in tables.items():
        store.write_text(out / name, patches_csv(slide.file.coords, numbers))
    return [*tables]


OF_FOLDS = "Each slide's attention comes from the model of the fold that did not train on it. "
_ALONE = "Each patch is coloured by the model's prediction for it alone, as if it were the only patch of the slide."


def draw(
    out: Path,
    slides: Sequence[Seen],
    patches: str | None,
    *,
    folder: str | None = None,
    whose: str = OF_FOLDS,
    scored_by: str = "",
) -> tuple[list[str], list[Section]]:
    """Write attention/<slide_id>.jpg, scores/<slide_id>.jpg and montages, and make the sections of the report.

    :param patches: the folder of the patches; None for the path recorded in the features.
    :param folder: the folder of the slides, for those whose thumbnails are not found.
    :param whose: a sentence that names the model with attention.
    :param scored_by: a sentence that names the model that scored the patches.
    :returns: files relative to ``out``, and sections.
    :raises ConfigError: ``patches`` or ``folder`` is given and holds none of the slides.
    """
    places = Places(patches, folder)
    files, missing = [], []
    for slide in slides:
        placed = places.of(slide.file)
        if placed is None:
            missing.append(slide.slide_id)
            continue
        files += _overlays(out, slide, placed)
    places.check()
    absent = [] if not missing else [_absent(missing, len(slides))]
    notes = [
        f"{whose}Colours are multiples of the slide's mean. Attention is the weight of a patch in the model's prediction; it "
        "does not show what is in the patch.",
        *absent,
    ]
    looked = [slide for slide in slides if slide.attention is not None]
    sections = [Section("Attention", _shown(out, looked, files, ATTENTION), notes=notes)] if looked else []
    scored = [slide for slide in slides if slide.scores is not None]
    if scored:
        notes = [f"{scored_by}{_ALONE}", *([] if looked else absent)]
        sections.append(Section("Score of each patch", _shown(out, scored, files, SCORES), notes=notes))
    with_pixels = [
        (slide, file) for slide in looked if (file := places.patches.get(slide.slide_id)) and file.has_pixels
    ]
    pictures, written = _montages(out, with_pixels)
    return [*files, *written], [*sections, Section("Patches with most and least attention", pictures, wide=True)]


def _absent(missing: Sequence[str], every: int) -> str:
    few = listed(missing, 3, quoted=False)
    return (
        f"No pictures of {len(missing)} of {every} slides ({few}): their patches were not found with the id that the features "
        "record, or have no thumbnail. Give their folder with --patches DIR, or that of the slides with --slides DIR."
    )


def _overlays(out: Path, slide: Seen, placed: drawing.PlacedPatches) -> list[str]:
    """Write the heatmaps of a slide and return their files."""
    pictures = {}
    if slide.attention is not None:
        pictures[slide.picture(ATTENTION)] = drawing.overlay(placed, drawing.relative(slide.attention))
    if slide.scores is not None:
        pictures[slide.picture(SCORES)] = drawing.overlay(placed, slide.scores.values, slide.scores.scale)
    for name, picture in pictures.items():
        store.write_bytes(out / name, jpeg.encode(picture, _QUALITY))
    return [*pictures]


def _shown(out: Path, slides: Sequence[Seen], files: Sequence[str], kind: str) -> list[Picture]:
    """The heatmaps of the most and of the least certain slide of each group, at most 8."""
    written = set(files)
    drawn = {name: slide for slide in slides if (name := slide.picture(kind)) in written}
    chosen: dict[str, None] = {}
    for group in sorted({slide.caption.group for slide in drawn.values()}):
        mine = (name for name in drawn if drawn[name].caption.group == group)
        ranked = sorted(mine, key=lambda n: (-drawn[n].caption.sure, n))
        chosen |= dict.fromkeys([ranked[0], ranked[-1]])
    pictures = []
    for name in list(chosen)[:_MOST_IN_REPORT]:
        slide = drawn[name]
        small = overlay.reduced((out / name).read_bytes(), _REPORTED_SIDE, 80)
        caption = f"{slide.slide_id}: {slide.caption.text}."
        named = "Attention on" if kind == ATTENTION else "Scores of patches of"
        pictures.append(Picture(f"{named} {slide.slide_id}", caption, small))
    return pictures


def _montages(out: Path, found: Sequence[tuple[Seen, PatchFile]]) -> tuple[list[Picture], list[str]]:
    """For each group the patches with most and least attention in its most certain slides; several of each if slides are few."""
    pictures, files = [], []
    for number, group in enumerate(sorted({slide.caption.group for slide, _ in found})):
        mine = (pair for pair in found if pair[0].caption.group == group)
        ranked = sorted(mine, key=lambda pair: (-pair[0].caption.sure, pair[0].slide_id))
        ranked = ranked[:_COLUMNS]
        each = -(-_COLUMNS // len(ranked))
        rows = []
        for name, sign in (("most attended", -1), ("least attended", 1)):
            patches = [
                (pixels, float(slide.attention[row]) * len(slide.attention))
                for slide, file in ranked
                if slide.attention is not None
                for row in np.argsort(sign * slide.attention, kind="stable")[:each].tolist()
                if (pixels := decoded(file.read(row))) is not None
            ]
            rows.append((name, patches[:_COLUMNS]))
        if not rows[0][1]:
            continue
        name = f"figures/montage_{number + 1}.jpg"
        content = jpeg.encode(drawing.montage(rows), _QUALITY)
        store.write_bytes(out / name, content)
        files.append(name)
        caption = f"Patches of {group} with most and least attention, as multiples of their slide's mean; "
        caption += "most certain slides first."
        pictures.append(Picture(f"Patches of {group}", caption, content))
    return pictures, files
