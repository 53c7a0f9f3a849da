"""The pictures of the docs, drawn by the package's own functions.

``python docs/figures/draw.py`` draws those of docs/method.md and docs/tile.md; that of tissue needs real slides (SGCL_DATA,
default ../shared/data) and is left as it is without them. ``python docs/figures/draw.py RUN`` takes those of docs/pretrain.md
that a run of sgcl pretrain left, and ``python docs/figures/draw.py --demo FOLDER`` the strip in README.md from what ``make demo``
left. The published ones of a run are of three slides of $SGCL_DATA/wsi:

    sgcl tile $SGCL_DATA/wsi/{pdac_trucut_HE3,lung_scc_HE3,metaplasia_HE}.svs --out tiles --mpp 1
    sgcl pretrain tiles --out RUN --epochs 4 --batch 32 --lr 0.002 --view 64 --corner 32 --rotate90 0.75 \\
        --vertical-flip 0.5 --stain-scale 0.2 --stain-shift 0.05 --hue 0.1 --neighbours 12
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import cv2
import h5py
import matplotlib as mpl
import numpy as np
import torch

mpl.use("Agg")
from matplotlib import pyplot as plt
from PIL import Image

from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.config import ObjectiveOptions
from sgcl_cli.engine.loader import decode_jpeg
from sgcl_cli.method import sets
from sgcl_cli.method.losses import ramp
from sgcl_cli.method.negatives import Sampler
from sgcl_cli.method.positives import Neighbourhood
from sgcl_cli.method.resolve import resolve
from sgcl_cli.report.drawing import PALETTE
from sgcl_cli.slide import jpeg
from sgcl_cli.slide.open.reader import Slide
from sgcl_cli.slide.tissue.tissue import segment

HERE = Path(__file__).parent
RADII = (1.1, 2.0, 3.0, 5.0, 7.0)
DATA = Path(os.environ.get("SGCL_DATA", HERE.parents[1] / ".." / "shared" / "data"))
STRIP_SLIDE, ENCODERS = "slide_005", ("sgcl", "untrained", "mean-colour")
INKS = ((35, 60, 160), (200, 30, 45), (90, 30, 140), (40, 40, 42))


def neighbours() -> None:
    side = 15
    column, row = np.meshgrid(np.arange(side), np.arange(side))
    cell = torch.from_numpy(np.stack([column.ravel(), row.ravel()], 1).astype(np.float64))
    centre = side * side // 2
    figure, axes = plt.subplots(1, len(RADII), figsize=(11, 2.6), layout="constrained")
    for axis, radius in zip(axes, RADII, strict=True):
        one = torch.tensor([centre])
        near = Neighbourhood(torch.zeros(side * side, dtype=torch.int64), cell, radius).of(one)
        members = near[sets.taken(near, one)].numpy()
        shade = np.zeros(side * side)
        shade[members] = 0.55
        shade[centre] = 1
        axis.imshow(shade.reshape(side, side), cmap="Purples", vmin=0, vmax=1)
        axis.set(title=f"R = {radius:g}: {len(members)}", xticks=[], yticks=[])
    figure.savefig(HERE / "neighbours.png", dpi=110)


def laws() -> None:
    settings, _ = resolve(ObjectiveOptions(negatives=4_096), 681_486, 100, 128)
    sampler = Sampler(settings, 681_486, seed=0, uniform=settings.uniform_negatives)
    drawn = np.concatenate([sampler.at(step).quantile.numpy() for step in range(50)])
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    left.hist(100 * settings.top_share * drawn, bins=80, density=True, color="#7b5ea7")
    left.set(title="Semi-hard negatives: drawn ranks", xlabel="rank by similarity, % of N", ylabel="density")
    left.axvline(100 * settings.top_share * drawn.mean(), color="k", lw=1)
    epochs = np.linspace(0, 20, 400)
    right.plot(epochs, [ramp(float(epoch), 10.0) for epoch in epochs], color="#7b5ea7")
    right.set(title="Weight of the spatial term, ramp of 10 epochs", xlabel="epoch", ylabel="w(e)")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "laws.png", dpi=110)


def flawed(rgb: np.ndarray) -> np.ndarray:
    """A thumbnail of 8 um per pixel with ink, a coverslip's edge, a bubble, dust and a black border drawn onto it."""
    height, width = rgb.shape[:2]
    picture, random = rgb.copy(), np.random.default_rng(0)
    for number, ink in enumerate(INKS):
        x = width * (0.30 + 0.16 * number)
        points = [(x + 14 * np.sin(3 * t), height * (0.70 + 0.24 * t)) for t in np.linspace(0, 1, 30)]
        cv2.polylines(picture, [np.rint(points).astype(np.int32)], False, ink, 13, cv2.LINE_AA)
    cv2.line(picture, (0, 14), (width, 22), (70, 70, 72), 2, cv2.LINE_AA)
    cv2.circle(picture, (round(width * 0.72), round(height * 0.17)), 42, (75, 75, 75), 4, cv2.LINE_AA)
    for x, y in random.integers(-10, 11, (16, 2)).tolist():
        cv2.circle(picture, (round(width * 0.93) + x, round(height * 0.3) + y), 2, (60, 60, 60), cv2.FILLED)
    picture[:, :18] = 3
    return picture


def tissue() -> None:
    panels = []
    for name, drawn in (("metaplasia_trypsin_IHC", lambda rgb: rgb), ("lung_scc_HE3", flawed)):
        with Slide(DATA / "wsi" / f"{name}.svs") as slide:
            thumbnail = slide.thumbnail()
        picture = drawn(thumbnail.pixels)
        seen = segment(picture, thumbnail.mpp)
        print(f"{name}: {seen.preset}")
        shown = picture.copy()
        for mask, colour in ((seen.tissue, (0, 140, 60)), (seen.pen, (210, 20, 20))):
            outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(shown, outlines, -1, colour, 2)
        size = round(shown.shape[1] * 460 / shown.shape[0]), 460
        panels.append(cv2.resize(shown, size, interpolation=cv2.INTER_AREA))
    gap = np.full((460, 8, 3), 255, np.uint8)
    (HERE / "tile_tissue.jpg").write_bytes(jpeg.encode(np.hstack([panels[0], gap, panels[1]]), 82))


def pictures(run: Path) -> None:
    """views.png and neighbours.png of a run, as small JPEGs."""
    for name, target in (("views.png", "views.jpg"), ("neighbours.png", "examples.jpg")):
        with Image.open(run / name) as image:
            width, height = image.size
            small = image.convert("RGB").resize((1200, round(1200 * height / width)), Image.Resampling.LANCZOS)
        small.save(HERE / target, quality=80, optimize=True)


def strip(demo: Path) -> None:
    """A slide, its tissue and patches, a patch with its nearest on other slides, and three encoders on patches, from the demo."""
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.1), layout="constrained", width_ratios=[1, 1, 1.1, 1.35])
    for axis, kind in zip(axes, ("thumbnails", "overlays"), strict=False):
        axis.imshow(mpl.image.imread(demo / "tiles" / kind / f"{STRIP_SLIDE}.jpg"))
    axes[2].imshow(nearest(demo))
    for axis, title in zip(axes, ("a slide", "sgcl tile", "sgcl embed: a patch and its nearest"), strict=False):
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    for place, encoder in enumerate(ENCODERS):
        model = json.loads((demo / "patches" / encoder / "metrics.json").read_text())["models"]["knn"]
        found = model["metrics"]["balanced_accuracy"]
        axes[3].plot(found["value"], place, "o", color=PALETTE[0])
        axes[3].text(found["value"], place - 0.14, f"{found['value']:.2f}", ha="center", fontsize=9)
        if found["low"] is not None:
            axes[3].hlines(place, found["low"], found["high"], color=PALETTE[0], lw=2)
    axes[3].axvline(0.25, color="#666666", ls=":", lw=1)
    axes[3].text(0.26, len(ENCODERS) - 0.55, "chance", color="#666666", fontsize=8)
    axes[3].set_title("sgcl evaluate: which kind of tissue a patch is", fontsize=10)
    axes[3].set_yticks(range(len(ENCODERS)), ["trained by sgcl", "untrained", "mean colour"])
    axes[3].set(xlabel="balanced accuracy, kNN, 95 % interval", xlim=(0, 1), ylim=(len(ENCODERS) - 0.5, -0.5))
    axes[3].spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "strip.png", dpi=100)


def nearest(demo: Path) -> np.ndarray:
    """A patch of the strip's slide, framed, and the five patches of other slides that are nearest to it."""
    index = PatchIndex.open(demo / "tiles")
    rows = []
    for file in index.files:
        with h5py.File(demo / "features" / "sgcl" / f"{file.slide_id}.h5") as features:
            rows.append(features["features"][:].astype(np.float32))
    features = np.concatenate(rows)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    own = next(number for number, file in enumerate(index.files) if file.slide_id == STRIP_SLIDE)
    mine = np.flatnonzero(index.slide_of == own)
    anchor = mine[len(mine) // 2]
    alike = np.where(index.slide_of == own, -1.0, features @ features[anchor])
    chosen = [anchor, *np.argsort(-alike)[:5]]
    pictures = [
        np.pad(decode_jpeg(index.read(int(i)), ""), ((3, 3), (3, 3), (0, 0)), constant_values=255) for i in chosen
    ]
    pictures[0][[0, 1, 2, -3, -2, -1]] = pictures[0][:, [0, 1, 2, -3, -2, -1]] = (0, 0, 0)
    return np.vstack([np.hstack(pictures[:3]), np.hstack(pictures[3:])])


if __name__ == "__main__":
    if len(sys.argv) > 2:
        strip(Path(sys.argv[2]))
    elif len(sys.argv) > 1:
        pictures(Path(sys.argv[1]))
    else:
        neighbours()
        laws()
        if (DATA / "wsi").is_dir():
            tissue()
