"""Write a small cohort of synthetic H&E-like whole slides, with labels and annotations.

    python sample_data/make_slides.py OUT --slides 20 --seed 0

writes OUT/slides/<slide_id>.svs or .tif, OUT/annotations/<slide_id>.geojson and OUT/labels.csv. The same seed gives the
same bytes. Half of the slides hold carcinoma; within a slide every kind of tissue has the same mean colour, so that only
texture tells them apart, and the stain differs between the three sites.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from synthetic.pyramid import write_aperio, write_generic
from synthetic.regions import draw_regions, to_geojson
from synthetic.stain import SITES, add_dust, add_pen, develop, vary
from synthetic.tissue import Tissue

WRITERS = {".svs": write_aperio, ".tif": write_generic}
SIDES_UM = (1400.0, 1850.0)
"""Range of a slide's width and height, um: about 70 to 120 tissue patches of 256 px at 0.5 um per pixel."""


@dataclass(frozen=True)
class SlideSpec:
    """Everything that decides the bytes of one slide.

    :param label: "tumour" or "normal"; :param site: a key of :data:`synthetic.stain.SITES`.
    :param suffix: ".svs" for Aperio's layout, ".tif" for a generic pyramid; :param seed: words of entropy.
    :param side_um: range of width and height, um; :param mpp: um per pixel of level 0.
    :param pen: a key of :data:`synthetic.stain.INKS`, or none; :param quality: of the JPEG tiles.
    """

    slide_id: str
    label: str
    patient_id: str
    site: str
    suffix: str
    seed: tuple[int, ...]
    side_um: tuple[float, float] = SIDES_UM
    mpp: float = 0.5
    pen: str | None = None
    quality: int = 80


def cohort(slides: int, seed: int = 0, side_um: tuple[float, float] = SIDES_UM) -> list[SlideSpec]:
    """A balanced cohort: labels alternate, of three slides of a label two are one patient's, patients rotate over sites.

    Sites "north" and "east" scan to Aperio files, "south" to generic TIFF; the second slide carries a pen mark.
    """
    specs = []
    for index in range(slides):
        label, nth = ("tumour", "normal")[index % 2], index // 2
        patient = nth // 3 * 2 + min(nth % 3, 2) // 2
        site = list(SITES)[patient % len(SITES)]
        specs.append(
            SlideSpec(
                slide_id=f"slide_{index + 1:03d}",
                label=label,
                patient_id=f"P{2 * patient + index % 2 + 1:03d}",
                site=site,
                suffix=".tif" if site == "south" else ".svs",
                seed=(seed, index),
                side_um=side_um,
                pen="blue" if index == 1 else None,
            )
        )
    return specs


def samples() -> list[SlideSpec]:
    """The three small slides that are kept beside this file."""
    return [
        SlideSpec("sample_aperio_025", "tumour", "P001", "north", ".svs", (7, 1), (720, 760), mpp=0.25, quality=50),
        SlideSpec("sample_generic_050", "normal", "P002", "south", ".tif", (7, 2), (900, 960), quality=70),
        SlideSpec("sample_pen_050", "tumour", "P003", "east", ".tif", (7, 3), (900, 960), pen="green", quality=70),
    ]


def make_slide(spec: SlideSpec, out: Path) -> Path:
    """Write one slide and its annotations under ``out``; returns the slide's path. Existing files are replaced."""
    cv2.setNumThreads(1)
    shape_rng, rng = (np.random.default_rng([*spec.seed, stream]) for stream in (0, 1))
    width, height = (int(side / spec.mpp) for side in shape_rng.uniform(*spec.side_um, 2))
    tumour_share = float(rng.uniform(0.15, 0.4)) if spec.label == "tumour" else 0.0
    regions = draw_regions((width, height), spec.mpp, tumour_share, rng, shape_rng)
    image = develop(Tissue(regions, (width, height), spec.mpp, rng), vary(SITES[spec.site], rng), rng)
    add_dust(image, spec.mpp, rng)
    if spec.pen:
        add_pen(image, spec.pen, rng)
    path = out / "slides" / (spec.slide_id + spec.suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[spec.suffix](path, image, spec.mpp, spec.quality)
    annotations = out / "annotations" / f"{spec.slide_id}.geojson"
    annotations.parent.mkdir(parents=True, exist_ok=True)
    annotations.write_text(json.dumps(to_geojson(regions, (width, height))) + "\n", encoding="utf-8")
    return path


def write_labels(specs: Sequence[SlideSpec], path: Path) -> None:
    """labels.csv: slide_id, label, patient_id, site; one row per slide."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["slide_id", "label", "patient_id", "site"])
        writer.writerows([spec.slide_id, spec.label, spec.patient_id, spec.site] for spec in specs)


def make_cohort(
    specs: Sequence[SlideSpec], out: Path, workers: int = 1, done: Callable[[Path], object] = lambda path: None
) -> None:
    """Write every slide of ``specs`` under ``out`` in ``workers`` processes, then labels.csv.

    :param done: called with each slide's path, in order.
    """
    out.mkdir(parents=True, exist_ok=True)
    if workers == 1:
        for spec in specs:
            done(make_slide(spec, out))
    else:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
            for path in pool.map(make_slide, specs, [out] * len(specs)):
                done(path)
    write_labels(specs, out / "labels.csv")


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; see the head of this file."""
    parser = argparse.ArgumentParser(description="Write synthetic H&E-like whole slides with labels and annotations.")
    parser.add_argument("out", type=Path, help="folder to write to; files of the same names are replaced")
    parser.add_argument("--slides", type=int, default=20, help="number of slides (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default 0)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one per core)")
    parser.add_argument("--samples", action="store_true", help="write the three small samples of this folder instead")
    options = parser.parse_args(arguments)
    if options.slides < 1 or options.seed < 0 or options.workers < 1:
        parser.error("--slides and --workers must be at least 1, --seed at least 0")
    specs = samples() if options.samples else cohort(options.slides, options.seed)
    start = time.perf_counter()
    make_cohort(specs, options.out, min(options.workers, len(specs)), done=lambda path: print(path, flush=True))
    print(f"{len(specs)} slides in {time.perf_counter() - start:.1f} s; labels in {options.out / 'labels.csv'}")


if __name__ == "__main__":
    main()
