from __future__ import annotations

import json
from pathlib import Path

import pytest

from sgcl_cli.errors import ConfigError
from sgcl_cli.slide.open.discover import FoundSlides, discover


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def find(*inputs: Path, table: Path | None = None, id_from="stem", series=None) -> FoundSlides:
    return discover(inputs, table, id_from, lambda paths: [(series or {}).get(path.name) for path in paths])


def ids(found: FoundSlides) -> list[str]:
    return [entry.slide_id for entry in found.entries]


def test_folder_is_searched_and_the_rest_is_counted(tmp_path: Path):
    touch(
        tmp_path,
        "b.svs",
        "a.NDPI",
        "deep/er/c.tiff",
        "x.png",
        "y.jpg",
        "notes.txt",
        ".d.svs",
        ".hidden/e.svs",
        "LICENSE",
    )
    found = find(tmp_path)
    assert ids(found) == ["a", "b", "c"]
    assert [entry.name for entry in found.entries] == ["a.NDPI", "b.svs", "deep/er/c.tiff"]
    assert found.passed_over == "passed over 6 (1 .jpg, 1 .png, 1 .txt, 2 hidden, 1 without extension)"


def test_named_files_are_taken_whatever_they_are(tmp_path: Path):
    touch(tmp_path, "a.png", ".b.svs")
    found = find(tmp_path / "a.png")
    assert ids(found) == ["a"] and found.passed_over == ""
    with pytest.raises(ConfigError, match=r"the slide id '\.b' begins with a dot"):
        find(tmp_path / ".b.svs")


def test_our_own_outputs_are_passed_over_others_are_not(tmp_path: Path):
    touch(tmp_path, "out/patches/a.tif", "foreign/b.tif")
    (tmp_path / "out" / "run.json").write_text(json.dumps({"format": "sgcl.run/1"}))
    (tmp_path / "foreign" / "run.json").write_text(json.dumps({"other": 1}))
    found = find(tmp_path)
    assert ids(found) == ["b"]
    assert "1 output of sgcl" in found.passed_over


def test_link_cycles_end_and_links_of_other_names_are_slides_of_their_own(tmp_path: Path):
    touch(tmp_path, "folder/a.svs")
    (tmp_path / "folder" / "again").symlink_to(tmp_path / "folder")
    (tmp_path / "link.svs").symlink_to(tmp_path / "folder" / "a.svs")
    (tmp_path / "broken.svs").symlink_to(tmp_path / "nowhere.svs")
    found = find(tmp_path)
    assert ids(found) == ["broken", "link", "a"]
    assert "1 folder entered before" in found.passed_over


def test_missing_input_and_nothing_found(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such file or folder"):
        find(tmp_path / "absent")
    touch(tmp_path, "a.png")
    with pytest.raises(ConfigError, match=r"no slides found; passed over 1 \(1 \.png\)"):
        find(tmp_path)
    with pytest.raises(ConfigError, match="no slides found"):
        find()


@pytest.mark.parametrize(
    ("first", "second"), [("a.svs", "deep/a.tif"), ("a.svs", "deep/A.svs"), ("é.svs", "deep/e\u0301.svs")]
)
def test_slides_of_one_name_are_refused_with_both_paths(tmp_path: Path, first, second):
    touch(tmp_path, first, second)
    with pytest.raises(ConfigError, match="slides of one name") as caught:
        find(tmp_path)
    assert str(tmp_path / first) in caught.value.message and str(tmp_path / second) in caught.value.message
    assert "--id-from path" in caught.value.hint
    assert set(ids(find(tmp_path, id_from="path"))) == {first, second.replace("/", "__")}


def test_table_gives_ids_and_resolutions(tmp_path: Path):
    touch(tmp_path, "data/a.svs", "data/b.svs")
    table = tmp_path / "slides.csv"
    table.write_text("\ufeffPath;slide_id;mpp\ndata/a.svs;007;0,25\ndata/b.svs;;\n\n", encoding="utf-8")
    found = find(table=table)
    assert [(e.slide_id, e.name, e.mpp) for e in found.entries] == [
        ("007", "data/a.svs", 0.25),
        ("b", "data/b.svs", None),
    ]
    assert found.entries[0].path == tmp_path / "data" / "a.svs"


def test_table_resolves_a_collision_and_wins_over_a_folder(tmp_path: Path):
    touch(tmp_path, "data/a.svs", "data/deep/a.svs")
    table = tmp_path / "slides.csv"
    table.write_text("path,slide_id\ndata/deep/a.svs,second\n")
    found = find(tmp_path / "data", table=table)
    assert ids(found) == ["a", "second"]


def test_table_gives_settings_of_tissue(tmp_path: Path):
    touch(tmp_path, "a.svs", "b.svs")
    table = tmp_path / "slides.csv"
    table.write_text(
        "path,tissue,ink,min_area,max_hole,site\na.svs,IHC,Off,5e4,0,north\nb.svs,,,,,south\n", encoding="utf-8"
    )
    first, second = find(table=table).entries
    assert first.given == {"mpp": None, "tissue": "ihc", "ink": "off", "min_area": 50_000.0, "max_hole": 0.0}
    assert set(second.given.values()) == {None}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("mpp", value) for value in ("0", "nan", "-1", "inf", "fine")),
        *(("min_area", value) for value in ("-1", "large")),
        ("max_hole", "nan"),
        ("tissue", "pas"),
        ("ink", "no"),
    ],
)
def test_table_with_impossible_settings(tmp_path: Path, column, value):
    table = tmp_path / "slides.csv"
    table.write_text(f"path,{column}\na.svs,{value}\n")
    with pytest.raises(ConfigError, match=f"row 2: {column} is '{value}'") as caught:
        find(table=table)
    assert "leave the cell empty" in caught.value.hint


def test_thousands_separators_are_refused(tmp_path: Path):
    """20,000 would be read as 20, as commas are decimal otherwise."""
    (tmp_path / "slides.csv").write_text('path,min_area\na.svs,"20,000"\n')
    with pytest.raises(ConfigError, match="row 2: min_area is '20,000'") as caught:
        find(table=tmp_path / "slides.csv")
    assert "without thousands separators" in caught.value.hint


def test_unused_columns_are_named(tmp_path: Path):
    """A misspelled column would otherwise have no effect, unnoticed."""
    (tmp_path / "slides.csv").write_text("path,mp,stage\na.svs,0.25,II\n")
    unused = "--list: unused columns 'mp', 'stage'; known are path, slide_id, mpp, tissue, ink, min_area, max_hole"
    assert find(table=tmp_path / "slides.csv").unused == unused
    (tmp_path / "slides.csv").write_text("path,mpp\na.svs,0.25\n")
    assert find(table=tmp_path / "slides.csv").unused == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\na.svs\n", "no column 'path'"),
        ("path\na.svs\n./a.svs\n", "rows 2 and 3 name the same slide"),
        ("path,slide_id\n,x\n", "row 2 has no path"),
        ("", "no column 'path'"),
    ],
)
def test_table_that_cannot_be_used(tmp_path: Path, text, message):
    table = tmp_path / "slides.csv"
    table.write_text(text)
    with pytest.raises(ConfigError, match=message):
        find(table=table)


@pytest.mark.parametrize(
    ("slide_id", "reason"),
    [
        ("[/red]<script>", "slash"),
        ("a\\b", "slash"),
        ("a..b", r"'\.\.'"),
        (".a", "begins with a dot"),
        ("tab\tbed", "control"),
        ("x" * 201, "200 bytes"),
        ("é" * 101, "200 bytes"),
    ],
)
def test_refused_ids(tmp_path: Path, slide_id, reason):
    touch(tmp_path, "a.svs")
    table = tmp_path / "slides.csv"
    table.write_text(f"path,slide_id\na.svs,{slide_id}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=reason) as caught:
        find(table=table)
    assert "slide_id" in caught.value.hint and "\t" not in caught.value.message


def test_odd_but_harmless_ids_are_kept(tmp_path: Path):
    names = ["[red]<script>.svs", "with space.svs", "ünïcode.svs", "=1+1.svs"]
    touch(tmp_path, *names)
    assert sorted(ids(find(tmp_path))) == sorted(name.removesuffix(".svs") for name in names)


def test_dicom_files_of_a_series_are_one_slide(tmp_path: Path):
    touch(tmp_path, "one/a.dcm", "one/b.dcm", "one/c.dcm", "two/d.dcm", "one/broken.dcm")
    series = {"a.dcm": "1", "b.dcm": "1", "c.dcm": "2", "d.dcm": "1"}
    found = find(tmp_path, series=series)
    assert ids(found) == ["a", "broken", "c", "d"]
    assert {entry.slide_id: [path.name for path in entry.further] for entry in found.entries if entry.further} == {
        "a": ["b.dcm"]
    }
    assert found.passed_over == "passed over 1 (1 further file of a DICOM series)"


def test_one_named_file_of_a_dicom_series_stands_for_all(tmp_path: Path):
    touch(tmp_path, "one/a.dcm", "one/b.dcm", "one/c.dcm", "one/.b.dcm", "table.csv")
    series = {"a.dcm": "1", "b.dcm": "1", ".b.dcm": "1", "c.dcm": "2"}
    (tmp_path / "table.csv").write_text("path,slide_id\none/b.dcm,case\n")
    for found in (find(tmp_path / "one" / "b.dcm", series=series), find(table=tmp_path / "table.csv", series=series)):
        (entry,) = found.entries
        assert entry.path.name == "b.dcm" and [path.name for path in entry.further] == ["a.dcm"]
        assert found.passed_over == ""
    assert entry.slide_id == "case"
    (tmp_path / "table.csv").write_text("path,slide_id\none,case\n")
    with pytest.raises(ConfigError, match="row 2 names the folder one"):
        find(table=tmp_path / "table.csv", series=series)


def test_masks_beside_their_slides_are_no_slides(tmp_path: Path):
    touch(tmp_path, "a.svs", "a_mask.tif", "b_mask.tif", "c.ndpi", "c_mask.svs", "d/a_mask.tiff", "e_mask.TIF", "e.TIF")
    found = find(tmp_path)
    assert ids(found) == ["a", "b_mask", "c", "c_mask", "e", "a_mask"]
    assert found.passed_over == "passed over 2 (2 mask beside its slide)"
    assert ids(find(tmp_path / "a_mask.tif")) == ["a_mask"]
