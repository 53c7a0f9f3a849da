"""What attention looks at: overlays on the slides' thumbnails, and the patches that got most and least of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from sgcl_cli.artefacts import layout, store
from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.artefacts.patches import PatchFile
from sgcl_cli.errors import ArtefactError, ConfigError
from sgcl_cli.report import attention as drawing
from sgcl_cli.report.page import Picture, Section
from sgcl_cli.slide import jpeg, overlay
from sgcl_cli.stages.evaluate.captions import Caption

_QUALITY = 85
_REPORTED_SIDE = 760  # pixels of an overlay within the report
_MOST_IN_REPORT = 8
_COLUMNS = 8
_MOST_PIXELS = 2**26  # of a thumbnail that is decoded


@dataclass(frozen=True)
class Seen:
    """A slide with attention: its features, what is told of it; attention (N,)."""

    slide_id: str
    file: FeatureFile
    caption: Caption
    attention: NDArray[np.float32]


def draw(out: Path, slides: Sequence[Seen], patches: str | None) -> tuple[list[str], list[Section]]:
    """Write attention/<slide_id>.jpg of every slide whose patches are found, and montages; show some in the report.

    :param patches: where patches are; None for where the features say.
    :returns: files relative to ``out``, and the sections of the report.
    :raises ConfigError: ``patches`` is given and holds no slide's patches.
    """
    found, missing = [], []
    for slide in slides:
        file = _patches_of(slide, patches)
        if file is None:
            missing.append(slide.slide_id)
        else:
            found.append((slide, file))
    if patches is not None and not found:
        raise ConfigError(
            f"--patches {patches} holds the patches of none of the slides",
            "give the folder that they were embedded from",
        )
    files = [name for slide, file in found for name in _overlay(out, slide, file)]
    notes = [
        "Each slide's attention comes from the model of the fold that did not train on it. Colours are multiples of the "
        "slide's own mean: attention says where a model looked, not what is there."
    ]
    if missing:
        few = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        notes.append(
            f"No pictures for {len(missing)} of {len(slides)} slides, whose patches were not found with the id that the "
            f"features record ({few}); --patches DIR says where they are."
        )
    pictures, written = _montages(out, [pair for pair in found if pair[1].has_pixels])
    sections = [Section("Where the model looked", _shown(out, found, files), notes=notes)]
    return [*files, *written], [*sections, Section("What it looked at", pictures, wide=True)]


def _patches_of(slide: Seen, patches: str | None) -> PatchFile | None:
    """The slide's patches, if they are those that were embedded: the same id and as many."""
    attributes = slide.file.attributes or {}
    if patches is None:
        recorded = attributes.get("patches_path")
        candidates = [] if recorded is None else [slide.file.path.parent / str(recorded)]
    else:
        trees = layout.trees(Path(patches)) if Path(patches).is_dir() else []
        candidates = [
            path for tree in trees for path in layout.files(tree) if layout.slide_id(path) == slide.file.slide_id
        ]
    for path in candidates:
        if not path.is_file():
            continue
        try:
            file = PatchFile.open(path)
        except ArtefactError:
            continue
        if file.id == attributes.get("patches_id") and len(file) == len(slide.attention):
            return file
    return None


def _overlay(out: Path, slide: Seen, file: PatchFile) -> Iterator[str]:
    path = layout.thumbnail(file.path)
    size = [file.geometry.get(f"level0_{side}") for side in ("width", "height")]
    if path is None or None in size:
        return
    pixels = _decoded(path.read_bytes())
    if pixels is None:
        return
    scale = (float(size[0]) / pixels.shape[1], float(size[1]) / pixels.shape[0])  # type: ignore[arg-type]
    picture = drawing.overlay(pixels, file.coords, file.sides, slide.attention, scale)
    name = f"attention/{slide.file.path.stem}.jpg"
    store.write_bytes(out / name, jpeg.encode(picture, _QUALITY))
    yield name


def _decoded(data: bytes) -> NDArray[np.uint8] | None:
    """Pixels of a JPEG file; None where it is not one, or too large."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        if height * width > _MOST_PIXELS:
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None
    return pixels


def _shown(out: Path, found: Sequence[tuple[Seen, PatchFile]], files: Sequence[str]) -> list[Picture]:
    """For each group the overlays of the surest and of the least sure slide, as long as there is room."""
    drawn = {name: slide for slide, _ in found if (name := f"attention/{slide.file.path.stem}.jpg") in files}
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
        pictures.append(Picture(f"Attention on {slide.slide_id}", caption, small))
    return pictures


def _montages(out: Path, found: Sequence[tuple[Seen, PatchFile]]) -> tuple[list[Picture], list[str]]:
    """For each group the most and the least attended patch of its surest slides, several where slides are few."""
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
                for row in np.argsort(sign * slide.attention, kind="stable")[:each].tolist()
                if (pixels := _decoded(file.read(row))) is not None
            ]
            rows.append((name, patches[:_COLUMNS]))
        if not rows[0][1]:
            continue
        name = f"figures/montage_{number + 1}.jpg"
        content = jpeg.encode(drawing.montage(rows), _QUALITY)
        store.write_bytes(out / name, content)
        files.append(name)
        caption = f"Patches of {group} that got most and least attention, with multiples of their slide's mean; "
        caption += "surest slides first."
        pictures.append(Picture(f"Patches of {group}", caption, content))
    return pictures, files
