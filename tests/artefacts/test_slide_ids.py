from __future__ import annotations

from pathlib import Path

import pytest

from sgcl_cli.artefacts.labels import read_labels
from sgcl_cli.artefacts.slide_ids import Names


@pytest.mark.parametrize(
    ("known", "text", "meant"),
    [
        (["case0.tif", "case0.tiff"], "case0.tif", "case0.tif"),
        (["case0.tif", "case0.tiff"], "case0.tiff", "case0.tiff"),
        (["case0.tif", "case0.tiff"], "case0", "case0"),
        (["case0", "case0.tif"], "case0.tif", "case0.tif"),
        (["case0"], "case0.svs", "case0"),
        (["a.svs", "b"], "a", "a.svs"),
        (["a.svs", "b"], "a.tif", "a.svs"),
        (["a"], "stranger.svs", "stranger"),
        ([], "007.svs", "007"),
    ],
)
def test_exact_ids_come_first_and_a_suffix_is_tolerated_where_one_slide_is_meant(known, text, meant):
    assert Names.of(known, [text]).slide(text) == meant


def test_numbers_written_as_floats_are_known_where_all_match_without_it():
    texts = ["1018.0", "2.0", "name"]
    names = Names.of(["1018", "2", "name"], texts)
    assert [names.slide(text) for text in texts] == ["1018", "2", "name"]
    some = Names.of(["1018", "2"], ["1018.0", "3.0"])
    assert some.slide("1018.0") == "1018.0", "one that matches nothing: the .0 may mean something"
    exact = Names.of(["1.0", "2"], ["1.0", "2.0"])
    assert (exact.slide("1.0"), exact.slide("2.0")) == ("1.0", "2")


def test_a_table_of_floats_is_read_with_a_warning(tmp_path: Path):
    path = tmp_path / "labels.csv"
    path.write_text("slide_id,label\n1018.0,a\n7.0,b\n")
    labels = read_labels(path, known=["1018", "7"])
    assert [row.slide_id for row in labels.rows] == ["1018", "7"]
    assert labels.warnings == (
        "labels.csv: slide_id has numbers with an appended '.0', as written by spreadsheets; it is ignored",
    )
