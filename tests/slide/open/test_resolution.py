from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from sgcl_cli.errors import SlideError
from sgcl_cli.slide.open.reader import Slide


def write_ome(path: Path, size: dict[str, Any], **tags: Any) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    tifffile.imwrite(
        path, pixels, ome=True, tile=(128, 128), photometric="rgb", metadata={"axes": "YXS", **size}, **tags
    )
    return path


def physical(x: float, y: float, unit: str | None = None) -> dict[str, Any]:
    sizes = {"PhysicalSizeX": x, "PhysicalSizeY": y}
    return sizes if unit is None else {**sizes, "PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}


@pytest.mark.parametrize("size", [physical(0.25, 0.25), physical(250.0, 250.0, "nm"), physical(2.5e-4, 2.5e-4, "mm")])
def test_resolution_of_ome_xml_where_the_tags_have_none(tmp_path, size):
    with Slide(write_ome(tmp_path / "a.ome.tif", size)) as slide:
        assert slide.mpps == pytest.approx((0.25, 0.25)) and slide.mpp_source == "ome"


def test_tags_of_software_do_not_contradict_the_ome_xml(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", physical(0.25, 0.25), resolution=(72, 72), resolutionunit="INCH")
    with Slide(path) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "ome")


def test_tags_that_agree_with_the_ome_xml_are_used(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", physical(0.251, 0.251), resolution=(4e4, 4e4), resolutionunit="CENTIMETER")
    with Slide(path) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "tiff")


def test_a_contradiction_stops_the_slide_with_both_numbers(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", physical(0.25, 0.25), resolution=(4e4, 4e4), resolutionunit="INCH")
    for settings in ({}, {"default_mpp": 0.25}):
        with pytest.raises(SlideError) as caught:
            Slide(path, **settings)
        assert caught.value.message == (
            "a.ome.tif contradicts itself: 0.635 µm/px by its TIFF tags, 0.25 by its OME-XML"
        )
        assert "column mpp of --list" in caught.value.hint
    with Slide(path, given_mpp=0.25) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "given")


def test_ome_xml_that_says_nothing_usable(tmp_path):
    for number, size in enumerate([physical(0.25, 0.25, "pixel"), physical(500.0, 500.0), {}]):
        with pytest.raises(SlideError, match="records no resolution"):
            Slide(write_ome(tmp_path / f"{number}.ome.tif", size))


def test_ome_xml_with_entities_is_not_believed(tmp_path):
    xml = (
        '<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a "0.25">]><OME><Image><Pixels SizeX="400" SizeY="300" '
        'PhysicalSizeX="&a;" PhysicalSizeY="&a;"/></Image></OME>'
    )
    pixels = np.zeros((300, 400, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(128, 128), photometric="rgb", metadata=None, description=xml)
    with pytest.raises(SlideError, match="records no resolution"):
        Slide(tmp_path / "a.tif")
