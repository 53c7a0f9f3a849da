from __future__ import annotations

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from sgcl_cli.artefacts import hdf5, store
from sgcl_cli.artefacts.store import Attribute, Column, Schema
from sgcl_cli.errors import ArtefactError, LabelError, WriteError

SCHEMA = Schema(
    "test.thing",
    1,
    (
        Column("values", ("float32",), ("N", 2), ""),
        Column("offsets", ("int64",), ("N+1",), ""),
        Column("note", (store.TEXT,), ("N",), "", required=False),
    ),
    (Attribute("id", str, ""),),
)


def write_h5(path: Path, schema: Schema, columns: dict[str, object], attributes: dict[str, str]) -> None:
    with store.atomic(path) as temporary:
        with hdf5.created(temporary) as file:
            store.fill(file, schema, columns, attributes)
        store.verify(temporary, schema)


def _good() -> dict[str, object]:
    return {"values": np.zeros((3, 2), np.float32), "offsets": np.arange(4), "note": ["a", "b", "c"]}


def test_written_files_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.h5"
    write_h5(path, SCHEMA, _good(), {"id": "i"})
    with store.opened(path, SCHEMA) as file:
        assert file["values"].shape == (3, 2)
        assert list(file["note"].asstr()) == ["a", "b", "c"]
        assert file["values"].chunks is None
    assert [p.name for p in path.parent.iterdir()] == ["x.h5"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.zeros((3, 3), np.float32)}, r"shape \(3, 3\), not \(N, 2\)"),
        ({"offsets": np.arange(3)}, "'offsets' has shape"),
        ({"offsets": None}, "lacks the dataset 'offsets'"),
    ],
)
def test_a_file_that_breaks_its_schema_is_never_written(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ArtefactError, match=message):
        write_h5(tmp_path / "x.h5", SCHEMA, {**_good(), **change}, {"id": "i"})
    assert list(tmp_path.iterdir()) == []


def test_other_formats_are_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["format"] = "test.thing/2"
    with (
        pytest.raises(ArtefactError, match="test.thing/1: its format is 'test.thing/2'"),
        store.opened(tmp_path / "x.h5", SCHEMA),
    ):
        pass


def test_an_error_inside_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    store.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), store.atomic(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


@pytest.mark.parametrize(
    ("code", "message"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "Read-only"), (errno.EACCES, "Permission")]
)
def test_what_the_system_says_is_translated(tmp_path: Path, code: int, message: str) -> None:
    with pytest.raises(WriteError, match=message), store.atomic(tmp_path / "x"):
        raise OSError(code, os.strerror(code))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_disk(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="the disk is full"), store.writing("x"), open("/dev/full", "wb") as file:
        file.write(b"0" * 2**20)


def test_sweep_removes_what_the_dead_left_and_nothing_else(tmp_path: Path) -> None:
    import socket
    import subprocess

    process = subprocess.Popen(["true"])
    process.wait()
    dead = tmp_path / f".a.h5.{socket.gethostname()}-{process.pid}.tmp"
    mine = store.temporary_name(tmp_path / "b.h5")
    elsewhere = tmp_path / ".c.h5.otherhost-1.tmp"
    for path in (dead, mine, elsewhere):
        path.write_text("")
    store.sweep(tmp_path)
    assert not dead.exists() and mine.exists() and elsewhere.exists()


# Untrusted HDF5.


def test_links_to_other_files_are_refused(tmp_path: Path) -> None:
    write_h5(tmp_path / "secret.h5", SCHEMA, _good(), {"id": "i"})
    for name, link in (("x", h5py.ExternalLink("secret.h5", "values")), ("y", h5py.SoftLink("/values"))):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["values"] = link
        with pytest.raises(ArtefactError, match="is a link"), store.opened(tmp_path / f"{name}.h5"):
            pass


def test_links_inside_groups_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_group("g")["values"] = h5py.ExternalLink("secret.h5", "values")
    with pytest.raises(ArtefactError, match="is a link"), store.opened(tmp_path / "x.h5"):
        pass


def test_groups_may_hold_each_other(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_group("a/b/c")
        file["a/b/c/again"] = file["/a"]
        file["a/b/root"] = file["/"]
    with store.opened(path) as file:
        assert set(file) == {"a"}
    with h5py.File(path, "r+") as file:
        file["a/b/c/out"] = h5py.ExternalLink("elsewhere.h5", "/")
    with pytest.raises(ArtefactError, match="'out' is a link"), store.opened(path):
        pass


def test_damage_inside_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    write_h5(path, SCHEMA, _good(), {"id": "i"})
    data = path.read_bytes()
    path.write_bytes(data.replace(b"TREE", b"FREE").replace(b"SNOD", b"SNAP"))
    with pytest.raises(ArtefactError, match=r"x\.h5 is damaged"), store.opened(path, SCHEMA):
        pass


def test_virtual_and_external_datasets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"secret00")
    with h5py.File(tmp_path / "v.h5", "w") as file:
        layout = h5py.VirtualLayout((2,), "f4")
        layout[:] = h5py.VirtualSource("other.h5", "values", (2,))
        file.create_virtual_dataset("values", layout)
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file.create_dataset("values", (8,), "u1", external=[(str(tmp_path / "raw"), 0, 8)])
    for name in ("v.h5", "e.h5"):
        with pytest.raises(ArtefactError, match="in other files"), store.opened(tmp_path / name):
            pass


@pytest.mark.parametrize("chunks", [None, (1024,)])
def test_a_shape_beyond_the_file_is_refused_before_allocating(tmp_path: Path, chunks: tuple[int] | None) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("values", (2**40,), "u1", chunks=chunks)
    with pytest.raises(ArtefactError, match="claims 1099511627776 bytes"), store.opened(tmp_path / "x.h5"):
        pass


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    write_h5(tmp_path / "x.h5", SCHEMA, _good(), {"id": "i"})
    whole = (tmp_path / "x.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.h5").write_bytes(b"")
    for name, message in (("cut.h5", "damaged"), ("empty.h5", "damaged"), ("absent.h5", "no such file")):
        with pytest.raises(ArtefactError, match=message), store.opened(tmp_path / name):
            pass


# Tables.


def test_tables_with_byte_order_mark_semicolons_and_tabs(tmp_path: Path) -> None:
    for separator in (",", ";", "\t"):
        path = tmp_path / "t.csv"
        path.write_bytes(f"\ufeffSlide_ID{separator} Label\r\n007{separator}yes \r\n\r\n".encode())
        assert store.read_table(path, ["slide_id", "label"]) == [{"slide_id": "007", "label": "yes"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'slide_id'.*an empty file"),
        ("a,b\n1,2\n", "no column 'slide_id' .found: a, b"),
        ("slide_id,label,label\nx,1,2\n", "names a column twice"),
        ("slide_id,label\nx,1,2\n", "row 2 has 3 cells, the header has 2"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(LabelError, match=message):
        store.read_table(tmp_path / "t.csv", ["slide_id", "label"])


def test_a_table_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00s")
    with pytest.raises(LabelError, match="not UTF-8"):
        store.read_table(tmp_path / "t.csv", [])


def test_formulas_are_quoted_and_read_back(tmp_path: Path) -> None:
    ids = ["=cmd|x", "+1", "-a", "@b", "plain", "'quoted"]
    store.write_csv(tmp_path / "t.csv", ["id", "n"], [{"id": i, "n": -1} for i in ids])
    text = (tmp_path / "t.csv").read_text()
    assert text.splitlines()[1] == "'=cmd|x,-1"
    assert [row["id"] for row in store.read_table(tmp_path / "t.csv", ["id"])] == ids


def test_negative_numbers_are_no_formulas(tmp_path: Path) -> None:
    rows = [{"a": text} for text in ("-0.25", "-8.3780815e-06", "+3", "-1+cmd", "-")]
    store.write_csv(tmp_path / "x.csv", ["a"], rows)
    assert (tmp_path / "x.csv").read_text().splitlines()[1:] == ["-0.25", "-8.3780815e-06", "+3", "'-1+cmd", "'-"]
    assert store.read_csv(tmp_path / "x.csv") == rows


def test_json_has_no_nan(tmp_path: Path) -> None:
    store.write_json(tmp_path / "x.json", {"a": float("nan"), "b": [np.float32(1.5), np.int64(2)]})
    assert store.read_json(tmp_path / "x.json") == {"a": None, "b": [1.5, 2]}


def test_ids_depend_on_kind_config_and_sources() -> None:
    base = store.artefact_id("k", {"a": 1, "b": 2}, ["x", "y"])
    assert base == store.artefact_id("k", {"b": 2, "a": 1}, ["x", "y"])
    others = [("l", {"a": 1, "b": 2}, ["x", "y"]), ("k", {"a": 2, "b": 2}, ["x", "y"]), ("k", {"a": 1, "b": 2}, ["x"])]
    assert len({base, *(store.artefact_id(*other) for other in others)}) == 4


# What the system says in other ways.


class _Full:
    """A path whose file cannot be written."""

    def __init__(self, code: int) -> None:
        self.code = code

    def open(self, mode: str) -> _Full:
        return self

    def __enter__(self) -> _Full:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, data: object) -> int:
        raise OSError(self.code, os.strerror(self.code))

    def flush(self) -> None:
        pass


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "the disk is full while writing"),
        (errno.EDQUOT, "the disk is full while writing"),
        (errno.EFBIG, "larger than the system allows"),
        (errno.EIO, "cannot write x: Input/output error"),
        (errno.ESTALE, "cannot write x: Stale"),
    ],
)
def test_torch_and_hdf5_say_it_in_their_own_ways(code: int, message: str) -> None:
    import torch

    from sgcl_cli.artefacts import tensors

    with pytest.raises(ArtefactError, match=message), store.writing("x"):
        tensors.save({"a": torch.zeros(10)}, _Full(code))  # type: ignore[arg-type]
    with pytest.raises(ArtefactError, match=message), store.writing("x"):
        raise RuntimeError(f"Can't decrement id ref count (unable to write, errno = {code}, error message = '...')")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_checkpoint_on_a_really_full_disk() -> None:
    import torch

    from sgcl_cli.artefacts import tensors

    with pytest.raises(ArtefactError, match="the disk is full while writing last.pt"), store.writing("last.pt"):
        tensors.save({"a": torch.zeros(10**6)}, Path("/dev/full"))


def test_a_runtime_error_of_another_kind_stays_one() -> None:
    with pytest.raises(RuntimeError, match="a defect"), store.writing("x"):
        raise RuntimeError("a defect")


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from sgcl_cli.artefacts import store; store.write_bytes(sys.argv[1], bytes(2000))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "x")], capture_output=True, text=True)
    assert "WriteError" in done.stderr and "larger than the system allows" in done.stderr
    assert not list(tmp_path.iterdir())


def test_names_that_are_not_utf8_are_carried_through(tmp_path: Path) -> None:
    odd = os.fsdecode(b"a\xff")
    store.write_json(tmp_path / "x.json", {"path": odd})
    assert store.read_json(tmp_path / "x.json") == {"path": odd}
    store.write_csv(tmp_path / "x.csv", ["path"], [{"path": odd}])
    assert store.read_csv(tmp_path / "x.csv") == [{"path": "a\\udcff"}]
    write_h5(tmp_path / odd / "x.h5", SCHEMA, _good(), {"id": odd})
    with store.opened(tmp_path / odd / "x.h5", SCHEMA) as file:
        assert file.attrs["id"] == "a\\udcff"


@pytest.mark.parametrize("free", [True, False])
def test_a_heap_of_texts_that_hdf5_never_comes_back_from(tmp_path: Path, free: bool) -> None:
    path = tmp_path / "x.h5"
    write_h5(path, SCHEMA, _good(), {"id": "i" * 50})
    data = bytearray(path.read_bytes())
    at = data.index(b"GCOL") + 16
    while free and int.from_bytes(data[at : at + 2], "little"):  # to what is free, which has number 0
        at += 16 + (int.from_bytes(data[at + 8 : at + 16], "little") + 7) // 8 * 8
    data[at + 8 : at + 16] = bytes(8) if free else b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(ArtefactError, match=r"x\.h5 is damaged: a string in it has a length of"), store.opened(path):
        pass


@pytest.mark.parametrize("count", [1, 300, 40_000])
def test_heaps_of_many_texts_are_read(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    texts = ["x" * int(n) for n in rng.integers(0, 90, count)]
    values = {"values": np.zeros((count, 2), np.float32), "offsets": np.arange(count + 1), "note": texts}
    write_h5(tmp_path / "x.h5", SCHEMA, values, {"id": "i"})
    with store.opened(tmp_path / "x.h5", SCHEMA) as file:
        assert store.texts_of(file["note"], tmp_path / "x.h5") == texts


def test_a_file_where_a_folder_should_be_is_a_write_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match="Not a directory|File exists"):
        store.write_text(tmp_path / "file" / "inside" / "page.html", "x")
