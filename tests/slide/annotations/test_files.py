from __future__ import annotations

import io
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from sgcl_cli.errors import ConfigError, LabelError, SlideError
from sgcl_cli.slide.annotations import files
from sgcl_cli.slide.annotations.files import MaskReading
from sgcl_cli.slide.annotations.frames import Frame
from sgcl_cli.slide.annotations.outlines import Areas, Points, Raster

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
HOLE = [[2, 2], [4, 2], [4, 4], [2, 4], [2, 2]]
ASAP = """<?xml version="1.0"?>
<ASAP_Annotations>
  <Annotations>
    <Annotation Name="A 0" Type="Polygon" PartOfGroup="_0" Color="#F4FA58"><Coordinates>
      <Coordinate Order="0" X="0" Y="0" /><Coordinate Order="1" X="10.5" Y="0" /><Coordinate Order="2" X="10" Y="10" />
    </Coordinates></Annotation>
    <Annotation Name="A 1" Type="Spline" PartOfGroup="_1" Color="#F4FA58"><Coordinates>
      <Coordinate Order="0" X="20" Y="0" /><Coordinate Order="1" X="30" Y="0" /><Coordinate Order="2" X="30" Y="10" />
    </Coordinates></Annotation>
    <Annotation Name="A 2" Type="Polygon" PartOfGroup="_2" Color="#F4FA58"><Coordinates>
      <Coordinate Order="0" X="1" Y="1" /><Coordinate Order="1" X="2" Y="1" /><Coordinate Order="2" X="2" Y="2" />
    </Coordinates></Annotation>
    <Annotation Name="A 3" Type="Polygon" PartOfGroup="None" Color="#F4FA58"><Coordinates>
      <Coordinate Order="0" X="1" Y="1" /><Coordinate Order="1" X="2" Y="1" /><Coordinate Order="2" X="2" Y="2" />
    </Coordinates></Annotation>
    <Annotation Name="A 4" Type="Dot" PartOfGroup="metastases" Color="#F4FA58"><Coordinates>
      <Coordinate Order="0" X="1" Y="1" />
    </Coordinates></Annotation>
    <Annotation Name="A 5" Type="Rectangle" PartOfGroup="normal" Color="#F4FA58"><Coordinates>
      <Coordinate Order="0" X="1" Y="1" /><Coordinate Order="1" X="2" Y="1" />
      <Coordinate Order="2" X="2" Y="2" /><Coordinate Order="3" X="1" Y="2" />
    </Coordinates></Annotation>
  </Annotations>
  <AnnotationGroups><Group Name="_0" PartOfGroup="None" Color="#64FE2E"><Attributes /></Group></AnnotationGroups>
</ASAP_Annotations>
"""


def feature(geometry: dict, **properties) -> dict:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def polygon(*rings: list, name: str | None = "Tumor") -> dict:
    properties = {} if name is None else {"classification": {"name": name, "color": [200, 0, 0]}}
    return feature({"type": "Polygon", "coordinates": list(rings)}, objectType="annotation", **properties)


def collection(*features: dict) -> str:
    return json.dumps({"type": "FeatureCollection", "features": features})


def read(path: Path, **reading) -> files.Content:
    return files.read(path, MaskReading(**reading))


def frame(size: tuple[int, int]) -> Frame:
    return Frame.of(Path("a.png"), size, None, None)


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_geojson_as_qupath_writes_it(tmp_path):
    several = {"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE], [[[20, 0], [30, 0], [30, 10]]]]}
    content = read(
        write(
            tmp_path / "a.geojson",
            collection(
                polygon(SQUARE, HOLE),
                feature(several, classification={"name": "Stroma", "colorRGB": -3670016}),
                feature({"type": "GeometryCollection", "geometries": [several]}, classification={"names": ["A", "B"]}),
                polygon(SQUARE, name=None),
                polygon(SQUARE, name="Ignore*"),
                feature({"type": "Point", "coordinates": [1, 2]}, classification={"name": "Tumor"}),
                feature(None, classification={"name": "Tumor"}),
            ),
        )
    )
    assert isinstance(content.annotation, Areas)
    regions = content.annotation.regions
    assert [(region.name, len(region.outline), len(region.holes)) for region in regions] == [
        ("Tumor", 5, 1),
        ("Stroma", 5, 1),
        ("Stroma", 3, 0),
        ("A: B", 5, 1),
        ("A: B", 3, 0),
    ]
    assert regions[0].holes[0].tolist() == HOLE
    assert content.names == content.spellings == {"Tumor", "Stroma", "A: B"}
    assert content.passed_over == {files.NO_CLASS: 2, files.NO_AREA: 2}


@pytest.mark.parametrize(
    "text", [json.dumps([polygon(SQUARE)]), json.dumps(polygon(SQUARE)), "\ufeff" + collection(polygon(SQUARE))]
)
def test_lists_single_features_and_byte_order_marks(tmp_path, text):
    assert read(write(tmp_path / "a.geojson", text)).names == {"Tumor"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("{}", "is not GeoJSON with features"),
        ('{"type": "FeatureCollection", "features": [1]}', "is not GeoJSON with features"),
        (collection(polygon([["0", 0], [1, 1], [2, 2]])), "coordinates that are strings"),
        (collection(polygon([[[0], 0], [1, 1], [2, 2]])), "not pairs of numbers"),
        (collection(polygon([[True, False], [True, True], [False, True]])), "not pairs of numbers"),
        (collection(polygon([[0, 0], [1, 1], [1e9, 2]])), "cannot be level-0 pixels"),
        (collection(polygon([[0, 0], [1, 1], [float("nan"), 2]])), "cannot be level-0 pixels"),
        (collection(polygon([[0, 0], [1, 1], ["x", 2]])), "coordinates that are strings"),
        (collection(feature({"type": "Polygon"}, classification={"name": "T"})), "without coordinates"),
    ],
)
def test_geojson_that_cannot_be_used_is_refused_by_name(tmp_path, text, message):
    with pytest.raises(LabelError, match=message) as caught:
        read(write(tmp_path / "a.geojson", text))
    assert "a.geojson" in caught.value.message and caught.value.hint and caught.value.exit_code == 2


def test_asap_xml_with_the_groups_of_camelyon(tmp_path):
    content = read(write(tmp_path / "a.xml", ASAP))
    assert isinstance(content.annotation, Areas)
    assert [region.name for region in content.annotation.regions] == ["tumor", "tumor", "normal"]
    assert content.annotation.regions[0].outline.tolist() == [[0, 0], [10.5, 0], [10, 10]]
    assert [region.outline.tolist() for region in content.annotation.cut_out] == [[[1, 1], [2, 1], [2, 2]]]
    assert content.passed_over == {files.NO_CLASS: 1, files.NO_AREA: 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + ASAP.partition("\n")[2], "DTD or entities"),
        ('<!DOCTYPE a SYSTEM "http://localhost/a.dtd">' + ASAP.partition("\n")[2], "DTD or entities"),
        (ASAP[:300], "is not XML"),
        ("<Slide/>", "begins with Slide, not ASAP_Annotations"),
        (ASAP.replace('X="10.5"', 'X="wide"'), "not pairs of numbers"),
    ],
)
def test_xml_that_cannot_be_used_is_refused(tmp_path, text, message):
    with pytest.raises(LabelError, match=message):
        read(write(tmp_path / "a.xml", text))


def test_tables_of_points(tmp_path):
    path = write(
        tmp_path / "a.spots.csv", 'x,y,cluster,name,radius_px\n1.5,2,0,"immune : B, T",72\n3,4,1,unknown,72\n5,6,2,,7\n'
    )
    content = read(path)
    assert isinstance(content.annotation, Points)
    assert content.annotation.centres.tolist() == [[1.5, 2]] and content.annotation.radii.tolist() == [72]
    assert content.names == {"immune : B, T"} and content.passed_over == {files.NO_CLASS: 2}
    assert read(write(tmp_path / "b.csv", "x;y;name;radius_px\n1,5;2;a;3\n")).annotation.centres.tolist() == [[1.5, 2]]
    assert read(write(tmp_path / "c.csv", "x,y,name,radius_px\n")).names == frozenset()
    with pytest.raises(LabelError, match="no column 'radius_px'"):
        read(write(tmp_path / "d.csv", "x,y,name\n"))
    with pytest.raises(LabelError, match="row 2: '1,000' is not a number of level-0 pixels .*thousands"):
        read(write(tmp_path / "f.csv", 'x,y,name,radius_px\n"1,000",2,a,3\n'))
    assert read(write(tmp_path / "g.csv", "x;y;name;radius_px\n1,125;2;a;3\n")).annotation.centres[0, 0] == 1.125
    with pytest.raises(LabelError, match="row 3: 'far' is not a number"):
        read(write(tmp_path / "e.csv", "x,y,name,radius_px\n1,2,a,3\nfar,2,a,3\n"))


def test_mask_images_of_every_depth_and_palettes(tmp_path):
    values = np.zeros((30, 40), np.uint8)
    values[:10], values[10:20] = 7, 255
    deep = values.astype(np.uint16) * 100
    palette = Image.fromarray(values)
    palette.putpalette(list(range(256)) * 3)
    for name, image in (("grey", Image.fromarray(values)), ("palette", palette), ("deep", Image.fromarray(deep))):
        image.save(tmp_path / f"{name}.png")
    Image.fromarray(values > 0).save(tmp_path / "bits.png")
    tifffile.imwrite(tmp_path / "grey.tif", values, compression="zlib", tile=(16, 16))
    for name in ("grey.png", "palette.png", "grey.tif"):
        assert read(tmp_path / name).names == {"7", "255"}
    assert read(tmp_path / "deep.png").names == {"700", "25500"} and read(tmp_path / "bits.png").names == {"1"}
    content = read(tmp_path / "grey.png", classes={255: "tumour", 0: "other"})
    assert content.names == {"tumour", "other"}
    path = tmp_path / "grey.png"
    raster, _ = files.placed(content, path, MaskReading(None, {255: "tumour"}), frame((40, 30)), (0.5, 0.5))
    assert isinstance(raster, Raster) and raster.scale == (1, 1) and raster.classes == {255: "tumour"}
    given, _ = files.placed(content, path, MaskReading(4.0), frame((317, 239)), (0.5, 0.5))
    assert isinstance(given, Raster) and given.scale == (8, 8) and given.classes == {7: "7", 255: "255"}
    with pytest.raises(SlideError, match=r"grey.png is 40 x 30 pixels, its slide 317 x 239") as caught:
        files.placed(content, path, MaskReading(), frame((317, 239)), (0.5, 0.5))
    assert "--mask-mpp" in caught.value.hint


def test_masks_that_cannot_be_used_are_refused(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "colour.png")
    tifffile.imwrite(tmp_path / "real.tif", np.zeros((4, 4), np.float32))
    tifffile.imwrite(tmp_path / "two.tif", np.zeros((2, 4, 4), np.uint8), photometric="minisblack")
    write(tmp_path / "text.png", "no image")
    write(tmp_path / "text.tif", "no image")
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (64, 64), np.uint8)).save(data, "PNG")
    write(tmp_path / "cut.png", data.getvalue()[:2000])
    for name, message in (
        ("colour.png", r"shape \(4, 4, 3\)"),
        ("real.tif", "float32"),
        ("two.tif", "2 images of one size"),
        ("text.png", "not a readable image"),
        ("text.tif", "not a readable image"),
        ("cut.png", "not a readable image"),
    ):
        with pytest.raises(LabelError, match=message):
            read(tmp_path / name)


def test_sizes_are_capped_before_anything_is_decoded(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "a.png")
    bomb = bytearray((tmp_path / "a.png").read_bytes())
    bomb[16:24] = (100_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    with pytest.raises(LabelError, match=r"10,000,000,000 pixels|exceeds limit"):
        read(write(tmp_path / "bomb.png", bytes(bomb)))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 64), np.uint8))
    monkeypatch.setattr(files, "_LARGEST_MASK", 1000)
    with pytest.raises(LabelError, match="4,096 pixels, more than 1,000") as caught:
        read(tmp_path / "a.tif")
    assert "--mask-mpp" in caught.value.hint
    monkeypatch.setattr(files, "_LARGEST_FILE", 10)
    with pytest.raises(LabelError, match="MiB"):
        read(tmp_path / "a.tif")


def test_too_many_classes_and_unreadable_files(tmp_path):
    rows = "".join(f"1,2,object {number},3\n" for number in range(1001))
    with pytest.raises(LabelError, match="1001 classes"):
        read(write(tmp_path / "a.csv", "x,y,name,radius_px\n" + rows))
    with pytest.raises(LabelError, match=r"cannot read .*absent\.xml: No such file"):
        read(tmp_path / "absent.xml")


def test_names_between_commas_and_their_order():
    assert files.split_names('a, "b, c" ,d') == ["a", "b, c", "d"]
    assert files.parse_mask_values("255=tumour, 0=other") == {255: "tumour", 0: "other"}
    assert files.in_order(frozenset({"10", "9", "b", "A"})) == ("9", "10", "A", "b")
    for text in ("tumour", "x=tumour", "1=", "1=a,1=b", "255=tumour;0=other"):
        with pytest.raises(ConfigError, match="--mask-values"):
            files.parse_mask_values(text)


def test_regions_of_interest_are_all_polygons_whatever_their_class(tmp_path):
    path = write(
        tmp_path / "a.geojson",
        collection(polygon(SQUARE, HOLE), polygon(SQUARE, name=None), polygon(SQUARE, name="Ignore*")),
    )
    found = files.read_regions(path)
    assert [len(region.holes) for region in found.regions] == [1, 0] and found.sha256 == read(path).sha256
    assert files.read_regions(write(tmp_path / "b.geojson", collection())).regions == ()
    stray = files.read_regions(write(tmp_path / "c.geojson", collection(polygon(SQUARE), polygon([[5, 5], [6, 5]]))))
    assert len(stray.regions) == 1 and stray.passed_over == {files.DEGENERATE: 1}


@pytest.mark.parametrize("ring", [[], [[5, 5]], [[5, 5], [6, 5]], [[5, 5], [6, 6], [9, 9], [5, 5]], [[5, 5]] * 4])
def test_outlines_that_enclose_nothing_are_counted_and_the_others_stay(tmp_path, ring):
    several = {"type": "MultiPolygon", "coordinates": [[ring], [SQUARE, ring]]}
    features = [polygon(SQUARE), polygon(ring, name="Stray"), feature(several, classification={"name": "Tumor"})]
    content = read(write(tmp_path / "a.geojson", collection(*features)))
    assert [(region.name, len(region.outline), len(region.holes)) for region in content.annotation.regions] == [
        ("Tumor", 5, 0)
    ] * 2
    assert content.passed_over == {files.DEGENERATE: 2} and content.spellings == {"Tumor"}


def test_a_thin_outline_and_a_figure_of_eight_enclose_something(tmp_path):
    thin, eight = [[0, 0], [9000, 0], [9000, 0.01]], [[0, 0], [4, 2], [4, 0], [0, 2]]
    content = read(write(tmp_path / "a.geojson", collection(polygon(thin), polygon(eight))))
    assert len(content.annotation.regions) == 2 and not content.passed_over


def test_asap_points_that_were_closed_as_polygons_are_counted(tmp_path):
    stray = ASAP.replace(
        "</Annotations>",
        '<Annotation Name="s" Type="Polygon" PartOfGroup="_0" Color="#F4FA58"><Coordinates>'
        '<Coordinate Order="0" X="700" Y="700" /></Coordinates></Annotation></Annotations>',
    )
    content = read(write(tmp_path / "a.xml", stray))
    assert content.passed_over[files.DEGENERATE] == 1 and len(content.annotation.regions) == 3
    commas = read(write(tmp_path / "b.xml", ASAP.replace('X="10.5"', 'X="10,5"')))
    assert commas.annotation.regions[0].outline.tolist() == [[0, 0], [10.5, 0], [10, 10]]
    last_first = read(write(tmp_path / "c.xml", ASAP.replace('Order="0" X="0"', 'Order="7" X="0"', 1)))
    assert last_first.annotation.regions[0].outline.tolist() == [[10.5, 0], [10, 10], [0, 0]]


def test_names_are_kept_as_they_are_written_besides(tmp_path):
    content = read(write(tmp_path / "a.geojson", collection(polygon(SQUARE, name="Tumor "), polygon(SQUARE))))
    assert content.names == {"Tumor"} and content.spellings == {"Tumor", "Tumor "}
    content = read(write(tmp_path / "a.xml", ASAP.replace('"normal"', '" normal"')))
    assert content.names == {"tumor", "normal"} and content.spellings == {"tumor", " normal"}


def test_points_may_lie_left_of_the_slide_but_have_no_negative_radius(tmp_path):
    rows = "x,y,name,radius_px\n5,5,a,3\n-139,80,b,3\n"
    assert read(write(tmp_path / "a.csv", rows)).annotation.centres.tolist() == [[5, 5], [-139, 80]]
    with pytest.raises(LabelError, match="row 4 has a negative radius_px"):
        read(write(tmp_path / "b.csv", rows + "1,1,a,-3\n"))


@pytest.mark.parametrize("compression", [None, "zlib", "lzma"])
@pytest.mark.parametrize("damage", ["cut", "noise", "ones"])
def test_masks_with_damaged_strips(tmp_path: Path, compression: str | None, damage: str) -> None:
    path, rng = tmp_path / "m.tif", np.random.default_rng(0)
    tifffile.imwrite(path, rng.integers(0, 3, (64, 64), np.uint8), compression=compression, rowsperstrip=8)
    whole = path.read_bytes()
    for seed in range(20):
        data, at = bytearray(whole), int(np.random.default_rng(seed).integers(8, len(whole)))
        if damage == "cut":
            del data[at:]
        elif damage == "noise":
            data[at : at + 16] = rng.bytes(len(data[at : at + 16]))
        else:
            data[at : at + 8] = b"\xff" * len(data[at : at + 8])
        path.write_bytes(data)
        try:
            files.read(path, MaskReading())
        except LabelError as error:
            assert str(path) in error.message


@pytest.mark.parametrize("encoding", ["utf-7", "shift_jis", "cp037", "nonsense", "hex", "utf-32", "rot13", "x" * 1000])
def test_xml_in_odd_encodings(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.xml").write_bytes(f'<?xml version="1.0" encoding="{encoding}"?><ASAP_Annotations/>'.encode())
    with pytest.raises(LabelError, match="a.xml is not XML"):
        files.read(tmp_path / "a.xml", MaskReading())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"type": ' + "9" * 5000 + "}", "5000 digits"),
        (
            json.dumps(
                {
                    "type": "Feature",
                    "properties": {"classification": {"name": "a"}},
                    "geometry": {"type": "Polygon", "coordinates": [[[10**24, 0], [1, 1], [2, 0]]]},
                }
            ),
            "coordinates that cannot be level-0 pixels",
        ),
    ],
)
def test_geojson_that_is_none(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(LabelError, match=f"a.geojson.*{reason}"):
        files.read(tmp_path / "a.geojson", MaskReading())


def test_geojson_of_more_points_than_memory_is_meant_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MOST_POINTS", 1000)
    (tmp_path / "a.geojson").write_text(json.dumps([[0, 0]] * 1001))
    with pytest.raises(LabelError, match="some 1,002 points, more than 1,000"):
        files.read(tmp_path / "a.geojson", MaskReading())


@pytest.mark.parametrize("text", ["²=a", "9" * 5000 + "=a", "4294967296=a", "-1=a"])
def test_values_of_masks_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--mask-values has"):
        files.parse_mask_values(text)


def test_classes_may_be_called_by_odd_numbers() -> None:
    names = frozenset({"²", "10", "9", "9" * 5000})
    assert files.in_order(names) == ("9", "10", "9" * 5000, "²")


def test_a_class_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    feature = {
        "type": "Feature",
        "properties": {"classification": {"name": "tumour \ud800"}},
        "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 0]]]},
    }
    (tmp_path / "a.geojson").write_text(json.dumps(feature))
    with pytest.raises(LabelError, match="has a class name that is not valid Unicode"):
        files.read(tmp_path / "a.geojson", MaskReading())
