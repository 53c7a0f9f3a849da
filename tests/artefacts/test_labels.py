from __future__ import annotations

from pathlib import Path

import pytest

from sgcl_cli.artefacts.labels import Columns, read_labels
from sgcl_cli.artefacts.slide_ids import plain_id
from sgcl_cli.errors import LabelError


def _table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_ids_stay_text_and_lose_their_suffix(tmp_path: Path) -> None:
    labels = read_labels(_table(tmp_path, "slide_id,label,patient_id\n007.svs,1,03\nb.h5,0,04\n"))
    assert [(r.slide_id, r.label, r.patient_id) for r in labels.rows] == [("007", "1", "03"), ("b", "0", "04")]
    assert plain_id("a.b.TIFF") == "a.b" and plain_id(".svs") == ".svs" and plain_id("x.v2") == "x.v2"


def test_without_patients_a_patient_is_a_slide(tmp_path: Path) -> None:
    labels = read_labels(_table(tmp_path, "slide_id,label\na,1\n"))
    assert not labels.has_patients and labels.rows[0].patient_id == "a"


def test_row_order_does_not_matter(tmp_path: Path) -> None:
    first = read_labels(_table(tmp_path, "slide_id,label\na,1\nb,0\n")).rows
    assert first == read_labels(_table(tmp_path, "slide_id,label\nb,0\na,1\n")).rows


def test_equal_rows_are_merged_with_a_warning(tmp_path: Path) -> None:
    labels = read_labels(_table(tmp_path, "slide_id,label\na,1\na.svs,1\n"))
    assert len(labels.rows) == 1 and "1 repeated rows were merged" in labels.warnings[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slide_id,label\n", "has no rows"),
        ("slide_id,label\na,1\na,0\n", "row 3: slide 'a' has two rows with different entries"),
        ("slide_id,label\n,1\n", "row 2 has no slide_id"),
        ("slide_id,label\na,\n", "slide 'a' has no label"),
        ("slide_id,label,split\na,1,dev\n", "split is 'dev'.*train, val, test"),
        ("slide,label\na,1\n", "no column 'slide_id'"),
        ("slide_id,label\na,1\nb,NaN\n", "row 3: label of slide 'b' is 'NaN', which means a missing value"),
        ("slide_id,label\na,N/A\n", "is 'N/A', which means a missing value"),
    ],
)
def test_bad_labels(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        read_labels(_table(tmp_path, text))


def test_slides_without_a_patient_are_told(tmp_path: Path) -> None:
    labels = read_labels(_table(tmp_path, "slide_id,label,patient_id\na,1,p\nb.svs,0,\nc,0,nan\n"))
    assert labels.without_patient == ("b", "c")
    assert [row.patient_id for row in labels.rows] == ["p", "b", "c"], "not one patient named nan"
    assert read_labels(_table(tmp_path, "slide_id,label\na,1\n")).without_patient == ()


def test_another_target_and_none(tmp_path: Path) -> None:
    path = _table(tmp_path, "slide_id,Grade,split\na,G2,Train\n")
    assert read_labels(path, Columns(target="grade")).rows[0].label == "G2"
    row = read_labels(path, Columns(target=None)).rows[0]
    assert row.label is None and row.split == "train"


def test_time_and_event_are_numbers_of_named_columns(tmp_path: Path) -> None:
    path = _table(tmp_path, "case,months,dead\n007,12.5,1\nb,0,no\n")
    rows = read_labels(path, Columns(slide_id="case", target=None, time="months", event="dead")).rows
    assert [(row.slide_id, row.time, row.event) for row in rows] == [("007", 12.5, 1), ("b", 0.0, 0)]


@pytest.mark.parametrize(
    ("cells", "message"), [("-1,1", "time is '-1'"), ("nan,1", "time is"), ("1,2", "event is '2'")]
)
def test_a_time_or_event_that_is_none_is_refused(tmp_path: Path, cells: str, message: str) -> None:
    path = _table(tmp_path, f"slide_id,time,event\na,{cells}\n")
    with pytest.raises(LabelError, match=message):
        read_labels(path, Columns(target=None, time="time", event="event"))
