from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import cv2
import make_slides
import numpy as np
import openslide
import pytest
from synthetic.regions import KINDS

SMALL_UM = (430.0, 500.0)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_labels(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def slide_paths(folder: Path) -> list[Path]:
    return sorted((folder / "slides").iterdir())


def annotations(slide: Path) -> dict:
    return json.loads((slide.parents[1] / "annotations" / f"{slide.stem}.geojson").read_text(encoding="utf-8"))


def kind_map(collection: dict, size: tuple[int, int], scale: float = 1.0) -> np.ndarray:
    """Index into KINDS of every pixel, -1 outside; (height, width) after scaling."""
    canvas = np.full((int(size[1] * scale), int(size[0] * scale)), -1, np.int16)
    for feature in collection["features"]:
        rings = [np.round(np.array(ring) * scale).astype(np.int32) for ring in feature["geometry"]["coordinates"]]
        canvas_one = cv2.fillPoly(np.zeros(canvas.shape, np.uint8), rings, 1)
        canvas[canvas_one == 1] = KINDS.index(feature["properties"]["classification"]["name"])
    return canvas


def pixels(slide: openslide.OpenSlide) -> np.ndarray:
    return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


def test_same_seed_same_bytes_whatever_the_workers(small_cohort: Path, tmp_path: Path) -> None:
    make_slides.make_cohort(make_slides.cohort(7, seed=3, side_um=SMALL_UM)[:3], tmp_path, workers=2)
    again, before = digests(tmp_path), digests(small_cohort)
    del again["labels.csv"]
    assert len(again) == 6
    assert again == {name: before[name] for name in again}


def test_another_seed_gives_other_slides(small_cohort: Path, tmp_path: Path) -> None:
    make_slides.make_cohort(make_slides.cohort(1, seed=4, side_um=SMALL_UM), tmp_path)
    assert digests(tmp_path)["slides/slide_001.svs"] != digests(small_cohort)["slides/slide_001.svs"]


def test_openslide_opens_every_slide(small_cohort: Path) -> None:
    suffixes = Counter(path.suffix for path in slide_paths(small_cohort))
    assert suffixes == {".svs": 6, ".tif": 1}
    for path in slide_paths(small_cohort):
        with openslide.OpenSlide(path) as slide:
            assert all(860 <= side <= 1000 for side in slide.dimensions)
            assert float(slide.properties["openslide.mpp-x"]) == 0.5
            assert float(slide.properties["openslide.mpp-y"]) == 0.5
            assert slide.level_count == 2
            assert slide.properties["openslide.vendor"] == {".svs": "aperio", ".tif": "generic-tiff"}[path.suffix]


def test_cohort_is_balanced_over_labels_sites_and_patients() -> None:
    specs = make_slides.cohort(20)
    assert Counter(spec.label for spec in specs) == {"tumour": 10, "normal": 10}
    for site in make_slides.SITES:
        labels = Counter(spec.label for spec in specs if spec.site == site)
        assert labels["tumour"] == labels["normal"] >= 3
    slides_of_patient = Counter(spec.patient_id for spec in specs)
    assert sorted(slides_of_patient.values()) == [1] * 8 + [2] * 6
    assert len({(spec.patient_id, spec.site, spec.label) for spec in specs}) == len(slides_of_patient)
    assert sum(spec.pen is not None for spec in specs) == 1


def test_labels_match_slides_and_annotations(small_cohort: Path) -> None:
    rows = read_labels(small_cohort)
    assert list(rows[0]) == ["slide_id", "label", "patient_id", "site"]
    assert [row["slide_id"] for row in rows] == [path.stem for path in slide_paths(small_cohort)]
    for row, path in zip(rows, slide_paths(small_cohort), strict=True):
        names = {feature["properties"]["classification"]["name"] for feature in annotations(path)["features"]}
        assert ("carcinoma" in names) == (row["label"] == "tumour")


def test_annotations_are_closed_rings_within_the_slide(small_cohort: Path) -> None:
    for path in slide_paths(small_cohort):
        with openslide.OpenSlide(path) as slide:
            width, height = slide.dimensions
        collection = annotations(path)
        assert collection["type"] == "FeatureCollection"
        for feature in collection["features"]:
            assert feature["type"] == "Feature"
            assert feature["geometry"]["type"] == "Polygon"
            assert feature["properties"]["classification"]["name"] in KINDS
            for ring in feature["geometry"]["coordinates"]:
                points = np.array(ring)
                assert len(points) >= 4
                assert (points[0] == points[-1]).all()
                assert (points >= 0).all()
                assert (points <= [width, height]).all()


def test_annotations_cover_the_tissue(small_cohort: Path) -> None:
    for path in slide_paths(small_cohort):
        with openslide.OpenSlide(path) as slide:
            image, size = pixels(slide), slide.dimensions
        inside = kind_map(annotations(path), size) >= 0
        saturation = cv2.blur(np.ptp(image.astype(np.float32), axis=2), (41, 41)) > 15
        if path.stem == "slide_002":  # the pen mark is coloured too
            saturation[: size[1] // 4] = inside[: size[1] // 4]
        assert (saturation == inside).mean() > 0.93


def patches(folder: Path, spec: make_slides.SlideSpec, side: int) -> tuple[np.ndarray, np.ndarray]:
    """All patches of one kind only: images (n, side, side, 3) and kinds (n,)."""
    path = make_slides.make_slide(spec, folder)
    with openslide.OpenSlide(path) as slide:
        image, kinds = pixels(slide), kind_map(annotations(path), slide.dimensions)
    corners = [(y, x) for y in range(0, image.shape[0] - side, 96) for x in range(0, image.shape[1] - side, 96)]
    blocks = {(y, x): kinds[y : y + side, x : x + side] for y, x in corners}
    pure = [corner for corner, block in blocks.items() if block.min() == block.max() >= 0]
    images = np.stack([image[y : y + side, x : x + side] for y, x in pure])
    return images, np.array([blocks[corner][0, 0] for corner in pure])


def mean_colour(images: np.ndarray) -> np.ndarray:
    return images.mean(axis=(1, 2))


def spectrum(images: np.ndarray) -> np.ndarray:
    """Log power of the grey image in eight octave-like rings of spatial frequency: how coarse the texture is."""
    grey = images.mean(axis=3)
    power = np.abs(np.fft.fft2(grey - grey.mean(axis=(1, 2), keepdims=True))) ** 2
    frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(side) for side in grey.shape[1:]]))
    edges = np.geomspace(0.008, 0.5, 9)
    rings = [(low <= frequency) & (frequency < high) for low, high in pairwise(edges)]
    return np.log(np.stack([power[:, ring].mean(axis=1) for ring in rings], axis=1))


def linear_accuracy(train: np.ndarray, kinds: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Balanced accuracy of linear discriminant analysis: nearest class mean under the pooled covariance."""
    centroids = np.stack([train[kinds == k].mean(axis=0) for k in range(len(KINDS))])
    within = np.cov((train - centroids[kinds]).T)
    away = test[:, None] - centroids
    predicted = np.einsum("nkd,de,nke->nk", away, np.linalg.inv(within), away).argmin(axis=1)
    return float(np.mean([(predicted[truth == k] == k).mean() for k in range(len(KINDS))]))


def test_texture_tells_the_kinds_apart_and_colour_does_not(tmp_path: Path) -> None:
    specs = [
        make_slides.SlideSpec(f"texture_{n}", "tumour", "P", "east", ".tif", (11, n), side_um=(1000, 1050))
        for n in range(2)
    ]
    (train, kinds), (test, truth) = (patches(tmp_path, spec, 192) for spec in specs)
    assert set(kinds) == set(truth) == set(range(len(KINDS)))
    slide_mean = mean_colour(train).mean(axis=0) - mean_colour(test).mean(axis=0)
    colour = linear_accuracy(mean_colour(train), kinds, mean_colour(test) + slide_mean, truth)
    texture = linear_accuracy(spectrum(train), kinds, spectrum(test), truth)
    assert texture > 0.9
    assert colour < 0.5


def test_kinds_have_one_mean_colour_within_a_slide(tmp_path: Path) -> None:
    for site, seed in (("north", 1), ("south", 2)):
        spec = make_slides.SlideSpec(site, "tumour", "P", site, ".tif", (5, seed), side_um=(900, 950))
        path = make_slides.make_slide(spec, tmp_path)
        with openslide.OpenSlide(path) as slide:
            image, kinds = pixels(slide), kind_map(annotations(path), slide.dimensions)
        means = []
        for kind in range(len(KINDS)):
            mask = cv2.erode((kinds == kind).astype(np.uint8), np.ones((33, 33), np.uint8)).astype(bool)
            assert mask.sum() > 50_000
            means.append(image[mask].mean(axis=0))
        assert np.ptp(means, axis=0).max() < 2


def test_sites_stain_differently(small_cohort: Path) -> None:
    sites = {row["slide_id"]: row["site"] for row in read_labels(small_cohort)}
    colour: dict[str, list[np.ndarray]] = {}
    for path in slide_paths(small_cohort):
        with openslide.OpenSlide(path) as slide:
            image, size = pixels(slide), slide.dimensions
        inside = kind_map(annotations(path), size) >= 0
        inside[: size[1] // 4] = False
        colour.setdefault(sites[path.stem], []).append(image[inside].mean(axis=0))
    between = [np.mean(values, axis=0) for values in colour.values()]
    assert len(between) == 3
    assert np.ptp(between, axis=0).max() > 6


def test_pen_mark_is_on_the_second_slide_only(small_cohort: Path) -> None:
    for path in slide_paths(small_cohort):
        with openslide.OpenSlide(path) as slide:
            red, _, blue = np.moveaxis(pixels(slide).astype(np.int16), 2, 0)
        assert ((blue - red > 90).mean() > 0.005) == (path.stem == "slide_002")


def test_committed_samples(sample_data: Path) -> None:
    expected = {
        "sample_aperio_025": (0.25, "aperio"),
        "sample_generic_050": (0.5, "generic-tiff"),
        "sample_pen_050": (0.5, "generic-tiff"),
    }
    paths = slide_paths(sample_data)
    assert [path.stem for path in paths] == [row["slide_id"] for row in read_labels(sample_data)] == list(expected)
    assert all(path.stat().st_size < 1_000_000 for path in paths)
    assert sum(path.stat().st_size for path in paths) < 2_500_000
    for path, row in zip(paths, read_labels(sample_data), strict=True):
        with openslide.OpenSlide(path) as slide:
            assert (float(slide.properties["openslide.mpp-x"]), slide.properties["openslide.vendor"]) == expected[
                path.stem
            ]
            size = slide.dimensions
        share = np.mean(kind_map(annotations(path), size, 1 / 16) == KINDS.index("carcinoma"))
        assert (share > 0.05) == (row["label"] == "tumour")


def test_command_line(sample_data: Path, tmp_path: Path) -> None:
    script = [sys.executable, str(sample_data / "make_slides.py")]
    done = subprocess.run([*script, str(tmp_path), "--slides", "1"], capture_output=True, text=True, check=True)
    assert "1 slides in" in done.stdout
    assert [path.name for path in slide_paths(tmp_path)] == ["slide_001.svs"]
    refused = subprocess.run([*script, str(tmp_path), "--slides", "0"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "--slides" in refused.stderr


@pytest.mark.slow
def test_full_size_slides_have_tissue_enough(tmp_path: Path) -> None:
    make_slides.make_cohort(make_slides.cohort(6), tmp_path, workers=2)
    for path in slide_paths(tmp_path):
        with openslide.OpenSlide(path) as slide:
            assert all(2800 <= side <= 3700 for side in slide.dimensions)
            tissue = (kind_map(annotations(path), slide.dimensions, 1 / 16) >= 0).sum()
        assert 60 <= tissue / 16**2 <= 130
