from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from sgcl_cli.artefacts import reading, store
from sgcl_cli.artefacts.checkpoint import load_checkpoint, read_weights, save_checkpoint
from sgcl_cli.artefacts.features import open_features, open_file
from sgcl_cli.artefacts.images import ImageFolder
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.errors import ArtefactError, LabelError, SgclError, UnavailableError

Make = Callable[..., Path]
CODES = [errno.EAGAIN, errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENOLCK, errno.EREMOTEIO]


def features(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["features"] = np.ones((3, 4), np.float32)
    return path


def write_all(folder: Path, make_patches: Make) -> dict[str, Callable[[], Any]]:
    """One small file of each kind, and how it is read."""
    features(folder / "f.h5")
    torch.save(torch.ones(3, 4), folder / "t.pt")
    np.save(folder / "n.npy", np.ones((3, 4), np.float32))
    save_checkpoint(folder / "c.pt", {"x": torch.ones(3)})
    store.write_json(folder / "j.json", {})
    store.write_csv(folder / "k.csv", ["a"], [{"a": "1"}])
    patches = make_patches(slides={"a": (2, 2)})
    (folder / "images" / "class").mkdir(parents=True)
    (folder / "images" / "class" / "i.png").write_bytes(b"")
    images = ImageFolder.open(folder / "images", crop=8)
    return {
        "f.h5": lambda: open_file(folder / "f.h5"),
        "t.pt": lambda: open_file(folder / "t.pt"),
        "n.npy": lambda: open_file(folder / "n.npy"),
        "c.pt": lambda: load_checkpoint(folder / "c.pt"),
        "j.json": lambda: store.read_json(folder / "j.json"),
        "k.csv": lambda: store.read_csv(folder / "k.csv"),
        "a.h5": lambda: PatchIndex.open(patches),
        "i.png": lambda: images.read(0),
    }


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_an_error_of_the_system_is_not_damage(
    make_patches: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    readers = write_all(tmp_path, make_patches)

    def refuse(path: str | Path) -> Path:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(reading, "plain", refuse)
    for name, read in readers.items():
        with pytest.raises(UnavailableError) as caught:
            read()
        said = f"{caught.value.message} {caught.value.hint}"
        assert name in caught.value.message and "damaged" not in said
        assert "delete" not in said.replace("do not delete", "") and "again with the command" not in said


@pytest.mark.parametrize("said", ["errno = 5, error message = 'Input/output error'", "errno = 116, ..."])
def test_an_error_that_hdf5_tells_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    features(tmp_path / "f.h5")

    def refuse(*_: object) -> None:
        raise OSError(f"Can't read data (file read failed: {said})")

    monkeypatch.setattr(store, "_refuse_deceit", refuse)
    with pytest.raises(UnavailableError, match="f.h5 cannot be read"):
        open_file(tmp_path / "f.h5")


LOCKING = "import h5py, sys; f = h5py.File(sys.argv[1], 'a', locking=True); print('held', flush=True); sys.stdin.read()"


def test_a_file_that_another_program_has_open(tmp_path: Path) -> None:
    path = features(tmp_path / "s00.h5")
    before = path.read_bytes()
    words = [sys.executable, "-c", LOCKING, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == b"held\n"
        with pytest.raises(UnavailableError, match=r"s00\.h5 is in use by another program") as caught:
            open_features(tmp_path)
        assert "HDF5_USE_FILE_LOCKING=FALSE" in caught.value.hint and "do not delete it" in caught.value.hint
        owner.communicate(b"")
    assert len(open_features(tmp_path).files) == 1 and len(path.read_bytes()) == len(before)


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "socket"])
def test_only_files_are_opened(make_patches: Make, tmp_path: Path, kind: str) -> None:
    import socket

    other = tmp_path / "other.h5"
    if kind == "fifo":
        os.mkfifo(other)
    elif kind == "folder":
        other.mkdir()
    elif kind == "device":
        other.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(str(other))
    readers: list[Callable[[], Any]] = [
        lambda: open_file(other),
        lambda: store.read_json(other),
        lambda: store.read_csv(other),
        lambda: store.read_table(other, []),
        lambda: load_checkpoint(other),
    ]
    for read in readers:
        with pytest.raises(SgclError, match=f"(?i)other.h5.*it is a {kind}, not a file"):
            read()


# JSON.


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "a number of 5000 digits"),
        ('{"a": ' + "9" * 26 + "}", "a number of 26 digits"),
        ("{", "Expecting"),
        ("", "Expecting"),
    ],
    ids=["deep", "long", "longer", "cut", "empty"],
)
def test_json_that_is_none(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ArtefactError, match=f"x.json is not readable JSON: .*{reason}"):
        store.read_json(tmp_path / "x.json")


def test_json_that_is_some() -> None:
    value = {"a": [1, -2.5, 2**64, None, True, "é"], "b": {}}
    assert reading.parse_json(json.dumps(value)) == value


KINDS = {
    "n": reading.number(0, 5),
    "w": reading.whole(0, 5),
    "t": reading.TEXT,
    "l": reading.listed(reading.whole(0, 9), count=2),
    "o": reading.one_of("a", "b"),
}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1], "is .1., not a table"),
        ({"n": float("nan")}, "n is nan, not a number from 0 to 5"),
        ({"n": True}, "n is True"),
        ({"n": 1e300}, r"n is 1e\+300"),
        ({"w": 1.0}, "w is 1.0, not a whole number"),
        ({"w": 10**4000}, "w is int, not a whole number|w is 1000"),
        ({"t": 5}, "t is 5, not a string"),
        ({"l": [1]}, "l is .1., not a list of 2"),
        ({"l": [1, "x"]}, "l is "),
        ({"o": ["a"]}, "o is .'a'., not one of a, b"),
        ({}, "has no t"),
    ],
)
def test_values_of_another_kind(value: object, words: str) -> None:
    with pytest.raises(
        ArtefactError, match=f"^file: |^file {words}" if not words.startswith("has") else words
    ) as caught:
        reading.typed(value, KINDS, "file", "mend it", ("t",) if value == {} else ())
    assert len(caught.value.message) < 200 and caught.value.hint == "mend it"


def test_values_of_the_right_kinds() -> None:
    value = {"n": 5, "w": 0, "t": "", "l": [1, 2], "o": "b", "else": object()}
    assert reading.typed(value, KINDS, "file", "") is value


# Attributes and texts of HDF5 files.


BROKEN = {
    "list": "[1]",
    "number": "3",
    "null": "null",
    "deep": "[" * 30_000,
    "digits": '{"mpp": ' + "9" * 5000 + "}",
    "array": np.array([1, 2]),
    "bytes": np.void(b"\xff\xfe"),
}


@pytest.mark.parametrize("name", ["config", "source", "label_names"])
@pytest.mark.parametrize("value", BROKEN.values(), ids=BROKEN)
def test_attributes_of_patches_that_are_something_else(make_patches: Make, name: str, value: object) -> None:
    folder = make_patches(slides={"a": (2, 2)})
    with h5py.File(folder / "patches" / "a.h5", "r+") as file:
        file.attrs[name] = value
    with pytest.raises(ArtefactError, match=r"a\.h5.*" + name):
        PatchIndex.open(folder)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("config", {"mpp": "x", "patch_size": 32}),
        ("config", {"mpp": 1e300, "patch_size": 32}),
        ("config", {"mpp": 0.5, "patch_size": 10**9}),
        ("config", {"mpp": 0.5}),
        ("source", {"identity": ["x"]}),
        ("source", {"name": 5}),
        ("source", {"unreadable": [5]}),
    ],
)
def test_entries_of_patches_that_are_out_of_range(make_patches: Make, name: str, entry: dict[str, Any]) -> None:
    folder = make_patches(slides={"a": (2, 2)})
    with h5py.File(folder / "patches" / "a.h5", "r+") as file:
        file.attrs[name] = json.dumps(entry)
    with pytest.raises(ArtefactError, match=r"a\.h5"):
        PatchIndex.open(folder)


@pytest.mark.parametrize("side", ["x", float("nan"), -1.0, 1e300, [1.0, 2.0, 3.0]])
def test_the_side_of_a_patch_is_a_number(make_patches: Make, side: object) -> None:
    folder = make_patches(slides={"a": (2, 2)})
    with h5py.File(folder / "patches" / "a.h5", "r+") as file:
        file["coords"].attrs["patch_size_level0"] = side
    with pytest.raises(ArtefactError, match="patch_size_level0"):
        PatchIndex.open(folder)


@pytest.mark.parametrize("place", [2**62, -(2**62), 2**31])
def test_places_beyond_any_slide(make_patches: Make, tmp_path: Path, place: int) -> None:
    folder = make_patches(slides={"a": (2, 2)})
    with h5py.File(folder / "patches" / "a.h5", "r+") as file:
        file["coords"][0] = place
    with pytest.raises(ArtefactError, match="'coords' reaches beyond any slide"):
        PatchIndex.open(folder)
    with h5py.File(features(tmp_path / "f.h5"), "r+") as file:
        file["coords"] = np.full((3, 2), place)
    with pytest.raises(ArtefactError, match="'coords' reach beyond any slide"):
        open_file(tmp_path / "f.h5")


def test_texts_that_share_one_long_text_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path, rows, text = tmp_path / "f.h5", 50_000, "x" * 200_000  # together 10 GB
    with h5py.File(path, "w") as file:
        file["features"] = np.ones((rows, 1), np.float32)
        names = file.create_dataset("name", (rows,), h5py.string_dtype())
        names[0] = text
        offset = names.id.get_offset()
    data = bytearray(path.read_bytes())
    data[offset : offset + 16 * rows] = data[offset : offset + 16] * rows
    path.write_bytes(data)
    with pytest.raises(ArtefactError, match=r"'/name' claims more text than the file has"):
        open_file(path)
    with h5py.File(tmp_path / "g.h5", "w") as file:
        file["features"] = np.ones((3, 1), np.float32)
        file["name"] = ["a", "bé", ""]
        file.create_dataset("group", data=["x", "y", "z"], dtype=h5py.string_dtype(), chunks=(2,))
    found = open_file(tmp_path / "g.h5")
    assert (found.name, found.group) == (("a", "bé", ""), ("x", "y", "z"))


# Tables.


@pytest.mark.parametrize("cell", ["x" * 131_073, "x" * 10**6])
def test_a_cell_that_is_too_long(tmp_path: Path, cell: str) -> None:
    (tmp_path / "t.csv").write_text(f"slide_id,label\n{cell},a\n")
    with pytest.raises(LabelError, match="the table .*t.csv cannot be read: field larger than field limit"):
        store.read_table(tmp_path / "t.csv", ["slide_id"])
    with pytest.raises(ArtefactError, match="field larger"):
        store.read_csv(tmp_path / "t.csv")


# Tensors.


EVIL_TENSORS = {
    "sparse": (lambda: torch.eye(4).to_sparse(), "sparse"),
    "csr": (lambda: torch.eye(4).to_sparse_csr(), "sparse"),
    "meta": (lambda: torch.ones(3, 4, device="meta"), "without content"),
    "expanded": (lambda: torch.zeros(1).expand(250_000_000, 1000), "of which 4 bytes are stored"),
    "a little": (lambda: torch.zeros(1).expand(3, 4), "of which 4 bytes are stored"),
    "complex": (lambda: torch.ones(3, 4, dtype=torch.complex64).conj(), "complex64"),
    "whole": (lambda: torch.ones(3, 4, dtype=torch.int64), "int64"),
    "dict": (lambda: {"features": [1, 2]}, "no tensor of features"),
}


@pytest.mark.filterwarnings("ignore:Sparse (CSR|invariant)")
@pytest.mark.parametrize(("make", "reason"), EVIL_TENSORS.values(), ids=EVIL_TENSORS)
def test_tensors_that_hold_less_than_they_say(tmp_path: Path, make: Callable[[], Any], reason: str) -> None:
    torch.save(make(), tmp_path / "s.pt")
    with pytest.raises(ArtefactError, match=r"s\.pt.*" + reason):
        open_file(tmp_path / "s.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_tensors_that_need_a_gradient_or_are_narrow_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.save(torch.tensor([[1.0, 0.5], [2.0, -4.0]]).to(dtype).requires_grad_(), tmp_path / "s.pt")
    np.testing.assert_array_equal(open_file(tmp_path / "s.pt").features, [[1.0, 0.5], [2.0, -4.0]])


def test_archives_that_are_compressed_are_refused(tmp_path: Path) -> None:
    import zipfile

    torch.save(torch.zeros(2**20), tmp_path / "s.pt")
    with (
        zipfile.ZipFile(tmp_path / "s.pt") as old,
        zipfile.ZipFile(tmp_path / "z.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ArtefactError, match=r"z\.pt claims more than its size"):
        open_file(tmp_path / "z.pt")


@pytest.mark.parametrize("what", ["expanded", "meta", "sparse"])
def test_weights_that_hold_less_than_they_say(tmp_path: Path, what: str) -> None:
    make, reason = EVIL_TENSORS[what]
    torch.save({"state_dict": {"conv1.weight": make()}}, tmp_path / "w.pth")
    with pytest.raises(ArtefactError, match=rf"w\.pth, conv1\.weight: a tensor is .*{reason}"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((10**12, 8), "<f4"), ((-1, 8), "<f4"), ((2**62, 2**62), "<f4"), ((2, 8), "O"), ((3, 8), "<c8")],
)
def test_headers_of_numpy_files_that_lie(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (117 - len(header)) + b"\n"
    (tmp_path / "s.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 192)
    with pytest.raises(ArtefactError, match=r"s\.npy"):
        open_file(tmp_path / "s.npy")


@pytest.mark.parametrize("text", ['["a", "\\ud800"]', '["\\udce9"]', '["x\\udfff"]'])
def test_halves_of_surrogate_pairs_are_no_text(text: str) -> None:
    with pytest.raises(ArtefactError, match="is .*, not a list of strings"):
        reading.texts_in({"names": text}, "names", Path("s.h5"))
    assert reading.texts_in({"names": '["\\ud83d\\ude00"]'}, "names", Path("s.h5")) == ("\U0001f600",)
