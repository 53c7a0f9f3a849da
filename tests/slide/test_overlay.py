from __future__ import annotations

import json

import cv2
import numpy as np

from sgcl_cli.slide.jpeg import encode
from sgcl_cli.slide.lattice import Geometry, lay
from sgcl_cli.slide.overlay import class_colour, draw, outlines, reduced


def ring_mask() -> np.ndarray:
    rows, columns = np.indices((120, 160))
    distance = np.hypot(columns - 60, rows - 60)
    mask = (distance < 45) & (distance > 15)
    mask[80:110, 120:150] = True
    return mask


def test_outlines_enclose_what_the_mask_shows_holes_included():
    mask, scale = ring_mask(), (32.0, 31.5)
    collection = json.loads(json.dumps(outlines(mask, scale)))
    assert collection["type"] == "FeatureCollection"
    drawn = np.zeros((480, 640), np.uint8)
    for feature in collection["features"]:
        assert feature["type"] == "Feature" and feature["properties"]["objectType"] == "annotation"
        assert feature["properties"]["classification"]["name"] == "Tissue"
        assert feature["geometry"]["type"] == "Polygon"
        rings = [np.array(ring) / scale * 4 for ring in feature["geometry"]["coordinates"]]
        assert all((ring[0] == ring[-1]).all() and len(ring) >= 4 for ring in rings)
        cv2.fillPoly(drawn, [np.rint(ring).astype(np.int32) for ring in rings], 1)
    assert sorted(len(feature["geometry"]["coordinates"]) for feature in collection["features"]) == [1, 2]
    expected = mask.repeat(4, 0).repeat(4, 1)
    assert (drawn.astype(bool) & expected).sum() / (drawn.astype(bool) | expected).sum() > 0.97


def test_no_tissue_gives_an_empty_collection():
    assert outlines(np.zeros((10, 10), bool), (1.0, 1.0)) == {"type": "FeatureCollection", "features": []}


def test_picture_marks_patches_and_outlines_and_enlarges_small_slides():
    mask = np.zeros((100, 120), bool)
    mask[20:60, 20:60] = True
    lattice = lay(mask, (1200, 1000), Geometry(200, 0, 0.5, 0.5), 0.9)
    assert lattice.grid.tolist() == [[1, 1], [2, 1], [1, 2], [2, 2]]
    white = np.full((100, 120, 3), 255, np.uint8)
    picture = draw(white, mask, lattice, (200, 200), (10.0, 10.0))
    assert picture.shape == (1000, 1200, 3)
    assert (picture[700:, 700:] == 255).all()
    inside = picture[300, 300]
    assert inside[2] > inside[0] and inside[0] > 200
    assert picture[250, 400, 0] < 100 and picture[250, 400, 2] > 150
    assert (white == 255).all()
    assert (
        draw(white, np.zeros_like(mask), lay(~mask, (10, 10), Geometry(20, 0, 1, 1), 0), (20, 20), (1, 1)).min() == 255
    )


def test_classes_have_their_colours():
    mask = np.ones((100, 100), bool)
    lattice = lay(mask, (1000, 1000), Geometry(500, 0, 0.5, 0.5), 0.5)
    white = np.full((100, 100, 3), 255, np.uint8)
    picture = draw(white, mask, lattice, (500, 500), (10.0, 10.0), np.array([0, 1, -1, 8], np.int16))
    centres = [picture[300, 300], picture[300, 900], picture[900, 300], picture[900, 900]]
    assert (centres[0] == centres[3]).all() and (centres[2] == 255).all()
    assert (centres[0] != centres[1]).any() and (picture[800, 590:610] == (30, 60, 200)).all(axis=1).any()
    np.testing.assert_allclose(centres[1], 255 - 0.3 * (255 - np.array(class_colour(1))), atol=1)


def test_small_copies_keep_their_proportions():
    pixels = np.zeros((900, 1200, 3), np.uint8)
    pixels[:, 600:] = 255
    small = cv2.imdecode(np.frombuffer(reduced(encode(pixels, 90), 300), np.uint8), cv2.IMREAD_COLOR)
    assert small.shape == (225, 300, 3) and small[:, :140].max() < 20 and small[:, 160:].min() > 235
    tiny = cv2.imdecode(np.frombuffer(reduced(encode(pixels[:90, :120], 90), 300), np.uint8), cv2.IMREAD_COLOR)
    assert tiny.shape == (90, 120, 3)


def test_jpeg_is_420_at_the_asked_quality():
    pixels = cv2.resize(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8), (256, 256))
    data = encode(pixels, 90)
    decoded = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.abs(decoded.astype(int) - pixels).mean() < 4
    frame = data.index(b"\xff\xc0")
    assert data[frame + 11] == 0x22
    assert len(encode(pixels, 50)) < len(data)
