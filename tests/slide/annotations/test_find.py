from __future__ import annotations

from pathlib import Path

import pytest

from sgcl_cli.errors import ConfigError
from sgcl_cli.slide.annotations.find import find


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_files_are_found_by_slide_id(tmp_path):
    names = ["a.geojson", "b.spots.csv", "c.d.xml", "e_mask.tif", "f.tumour_mask.png"]
    folder = touch(tmp_path / "marks", *names, "stranger.xml", ".a.geojson", "notes.txt", "a.tif")
    found = find(folder, ["a", "b", "c", "c.d", "e", "f", "g"], [folder / "a.tif"])
    assert {slide_id: path.name for slide_id, path in found.files.items()} == dict(
        zip(["a", "b", "c.d", "e", "f"], names, strict=True)
    )
    assert found.strangers == ("stranger.xml",) and not found.doubled
    assert found.loosely == {"b": "b.spots.csv", "f": "f.tumour_mask.png"}


def test_two_files_of_one_slide_are_told_and_cost_no_other(tmp_path):
    folder = touch(tmp_path / "marks", "a.geojson", "a.xml", "b.geojson", "c.1.xml", "c.2.xml")
    found = find(folder, ["a", "b", "c"], [])
    assert {slide_id: path.name for slide_id, path in found.files.items()} == {"b": "b.geojson"}
    assert found.doubled == {"a": ("a.geojson", "a.xml"), "c": ("c.1.xml", "c.2.xml")} and not found.loosely


def test_the_very_name_wins_over_longer_ones(tmp_path):
    found = find(touch(tmp_path / "marks", "A.1.geojson", "A.geojson"), ["A"], [])
    assert found.files["A"].name == "A.geojson" and found.strangers == ("A.1.geojson",)
    assert not found.doubled and not found.loosely


def test_folders_without_any_file_of_a_slide_are_refused(tmp_path):
    folder = touch(tmp_path / "marks", "a.geojson")
    with pytest.raises(ConfigError, match="is named by one of the slides; it has a.geojson"):
        find(folder, ["z"], [])
    with pytest.raises(ConfigError, match="absent is absent"):
        find(tmp_path / "absent", ["a"], [])
    with pytest.raises(ConfigError, match="a.geojson is a file, not a folder"):
        find(folder / "a.geojson", ["a"], [])
