from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from sgcl_cli.artefacts import names
from sgcl_cli.artefacts.features import open_features, open_file, read_header
from sgcl_cli.artefacts.labels import read_labels
from sgcl_cli.artefacts.patches import PatchFile, PatchIndex
from sgcl_cli.config import EmbedConfig
from sgcl_cli.errors import ArtefactError, LabelError
from sgcl_cli.stages.embed.run import embed

Make = Callable[..., Path]
EVIL = {
    "../../evil": "begins with a dot",
    "/etc/evil": "contains a slash",
    "a..b": "contains '..'",
    "a\\b": "backslash",
    ".hidden": "begins with a dot",
    "a\x1b[31mred": "contains control characters",
    "a\nb": "contains control characters",
    "": "is empty",
    "é" * 101: "longer than 200 bytes",
}
evil = pytest.mark.parametrize(("slide_id", "reason"), EVIL.items(), ids=range(len(EVIL)))


def set_id(path: Path, slide_id: object) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["slide_id"] = slide_id


@pytest.mark.parametrize("slide_id", ["a", "007", "TCGA-02-0001-01Z-00-DX1.83fce43e", "a b [red]", "é" * 100, "…"])
def test_ids_that_can_be_names_of_files(slide_id: str) -> None:
    assert names.fault(slide_id) == ""


def test_an_id_is_valid_text() -> None:
    assert names.fault("a\udcff") == "is not valid Unicode"


@pytest.mark.parametrize("slide_id", [None, 7, b"a", ["a"]])
def test_an_id_is_text(slide_id: object) -> None:
    assert names.fault(slide_id) == "is not a string"


def test_what_is_shown_of_an_id_is_short_and_printable() -> None:
    assert names.shown("a\x1b[31m\n\udcff") == "a\\x1b[31m\\n\\udcff"
    assert names.shown("x" * 1000) == "x" * 80 + "..."
    assert names.shown({"a": 1}) == "dict"


@evil
def test_every_reader_checks_the_id(make_patches: Make, tmp_path: Path, slide_id: str, reason: str) -> None:
    patches = make_patches(slides={"a": (2, 2), "b": (2, 2)}) / "patches" / "a.h5"
    set_id(patches, slide_id)
    with pytest.raises(ArtefactError, match=reason) as caught:
        PatchFile.open(patches)
    assert str(patches) in caught.value.message and caught.value.message.isprintable()
    features = tmp_path / "f.h5"
    with h5py.File(features, "w") as file:
        file["features"] = np.ones((2, 3), np.float32)
    set_id(features, slide_id)
    with pytest.raises(ArtefactError, match=reason):
        open_file(features)


@pytest.mark.parametrize("row", ["../../evil,x", "/etc/evil,x", "a..b,x", '"a\x1b[31m",x'])
def test_a_table_of_labels_checks_its_ids(tmp_path: Path, row: str) -> None:
    (tmp_path / "labels.csv").write_text(f"slide_id,label\nfine,x\n{row}\n", encoding="utf-8")
    with pytest.raises(LabelError, match=r"labels.csv, row 3: the slide_id '") as caught:
        read_labels(tmp_path / "labels.csv")
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("slide_id", ["../../evil", "{out}/evil", "a/../../evil"])
def test_embedding_writes_nowhere_but_to_its_output(make_patches: Make, tmp_path: Path, slide_id: str) -> None:
    folder = make_patches(slides={"a": (2, 2), "b": (2, 2)})
    set_id(folder / "patches" / "a.h5", slide_id.format(out=tmp_path))
    out = tmp_path / "deep" / "deeper" / "features"
    before = set(tmp_path.rglob("*"))
    config = EmbedConfig(
        patches=str(folder), encoder="mean-colour", out=str(out), also="pt", map=True, workers=0, allow_mpp=True
    )
    outcome = embed(config)
    assert [failure.slide_id for failure in outcome.failures] == ["a"]
    made = set(tmp_path.rglob("*")) - before
    assert made and all(path.is_relative_to(tmp_path / "deep") for path in made)
    assert {path.stem for path in out.rglob("*.h5")} == {"b"} == {path.stem for path in out.rglob("*.pt")}
    set_id(out / "b.h5", slide_id.format(out=tmp_path))
    with pytest.raises(ArtefactError, match="its slide id"):
        read_header(out / "b.h5")


@pytest.mark.parametrize(("first", "second"), [("a", "a"), ("a", "A"), ("\u00e9", "e\u0301")])
def test_two_files_of_one_slide_are_refused_and_named(
    make_patches: Make, tmp_path: Path, first: str, second: str
) -> None:
    folder = make_patches(slides={"x": (2, 2), "y": (2, 2), "z": (2, 2)})
    set_id(folder / "patches" / "x.h5", first)
    set_id(folder / "patches" / "z.h5", second)
    with pytest.raises(ArtefactError, match=r"x\.h5 and z\.h5 are both of slide"):
        PatchIndex.open(folder)
    features = tmp_path / "features"
    features.mkdir()
    for name, slide_id in (("x", first), ("y", "y"), ("z", second)):
        with h5py.File(features / f"{name}.h5", "w") as file:
            file["features"] = np.ones((2, 3), np.float32)
            file.attrs["slide_id"] = slide_id
    with pytest.raises(ArtefactError, match=r"x\.h5 and z\.h5 are both of slide"):
        open_features(features)
