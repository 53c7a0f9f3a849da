from __future__ import annotations

import json
import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from sgcl_cli.artefacts.features import FeatureWriter, open_features, open_file, sweep_parts
from sgcl_cli.errors import ArtefactError

ATTRIBUTES = {
    "slide_id": "a",
    "encoder": "resnet18",
    "encoder_sha256": "0" * 64,
    "patches_id": "p",
    "config": "{}",
}


def _write(path: Path, rows: np.ndarray, **more: object) -> None:
    with FeatureWriter(path, "id", rows.shape[1], "float16") as writer:
        writer.append(rows)
        writer.finish({"coords": np.zeros((len(rows), 2), np.int64)}, {**ATTRIBUTES, **more})


def test_written_rows_read_back(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    _write(tmp_path / "a.h5", rows)
    file = open_file(tmp_path / "a.h5")
    np.testing.assert_array_equal(file.features, rows.astype(np.float16))
    assert (file.slide_id, file.id, len(file)) == ("a", "id", 5)
    assert not list((tmp_path / ".part").iterdir())


def test_rows_before_an_interruption_are_kept(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    with FeatureWriter(tmp_path / "a.h5", "id", 2, "float32") as writer:
        writer.append(rows[:3])
        writer.checkpoint()
        writer.append(rows[3:4])
    assert not (tmp_path / "a.h5").exists()
    with FeatureWriter(tmp_path / "a.h5", "id", 2, "float32") as writer:
        assert writer.done == 3
        writer.append(rows[3:])
        writer.finish({}, ATTRIBUTES)
    np.testing.assert_array_equal(open_file(tmp_path / "a.h5").features, rows)


@pytest.mark.parametrize(
    ("identity", "dim", "dtype"), [("other", 2, "float32"), ("id", 3, "float32"), ("id", 2, "float16")]
)
def test_rows_of_other_settings_are_not_kept(tmp_path: Path, identity: str, dim: int, dtype: str) -> None:
    with FeatureWriter(tmp_path / "a.h5", "id", 2, "float32") as writer:
        writer.append(np.ones((3, 2)))
        writer.checkpoint()
    with FeatureWriter(tmp_path / "a.h5", identity, dim, dtype) as writer:
        assert writer.done == 0


@pytest.mark.parametrize(("value", "remedy"), [(np.nan, "--precision fp32"), (1e6, "--dtype float32")])
def test_values_that_are_not_finite_are_refused_with_the_right_remedy(
    tmp_path: Path, value: float, remedy: str
) -> None:
    with FeatureWriter(tmp_path / "a.h5", "id", 2, "float16") as writer, np.errstate(over="ignore"):
        with pytest.raises(ArtefactError, match=f"not finite as float16 .*{remedy}"):
            writer.append(np.array([[0, value]]))


def test_peers_files_are_read(tmp_path: Path) -> None:
    rows = np.ones((4, 3), np.float32)
    clam, trident, stamp = tmp_path / "clam", tmp_path / "trident", tmp_path / "stamp"
    for folder in (clam / "h5_files", trident, stamp, tmp_path / "npy", tmp_path / "pt"):
        folder.mkdir(parents=True)
    with h5py.File(clam / "h5_files" / "s.h5", "w") as file:
        file.create_dataset("features", data=rows, chunks=(1, 3))
        file.create_dataset("coords", data=np.zeros((4, 2), np.int64))
    with h5py.File(trident / "s.h5", "w") as file:
        file.create_dataset("features", data=rows[None])
    with h5py.File(stamp / "s.h5", "w") as file:
        file["feats"] = rows
    np.save(tmp_path / "npy" / "s.npy", rows)
    torch.save(torch.from_numpy(rows), tmp_path / "pt" / "s.pt")
    for folder in (clam, trident, stamp, tmp_path / "npy", tmp_path / "pt"):
        found = open_features(folder)
        assert [f.slide_id for f in found.files] == ["s"]
        np.testing.assert_array_equal(found.files[0].features, rows)


def test_places_are_level_0_pixels_or_left_out(tmp_path: Path) -> None:
    """STAMP's are in um; others keep an axis of batches."""
    rows, places = np.ones((2, 3), np.float32), [[0, 0], [448, 0]]
    with h5py.File(tmp_path / "stamp.h5", "w") as file:
        file["feats"], file["coords"] = rows, np.array(places, np.float32)
        file.attrs.update({"unit": "um", "tile_size_um": 448.0})
    with h5py.File(tmp_path / "batched.h5", "w") as file:
        file["features"], file["coords"] = rows[None], np.array(places)[None]
    with h5py.File(tmp_path / "real.h5", "w") as file:
        file["features"], file["coords"] = rows, np.array(places, np.float32)
    assert open_file(tmp_path / "stamp.h5").coords is None and open_file(tmp_path / "stamp.h5").geometry is None
    for name in ("batched.h5", "real.h5"):
        coords = open_file(tmp_path / name).coords
        assert coords.dtype == np.int64 and coords.tolist() == places


class _Evil:
    def __reduce__(self) -> tuple:
        return (print, ("executed",))


def test_files_that_would_run_code_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"features": _Evil()}, tmp_path / "a.pt")
    np.save(tmp_path / "b.npy", np.array([_Evil()], dtype=object), allow_pickle=True)
    for name, message in (("a.pt", "Python objects are refused"), ("b.npy", "Python objects are refused")):
        with pytest.raises(ArtefactError, match=message):
            open_file(tmp_path / name)
    assert "executed" not in capsys.readouterr().out


def test_a_writer_that_was_interrupted_when_its_file_was_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def interrupted(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".rows":
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with FeatureWriter(tmp_path / "a.h5", "id", 2, "float32") as writer:
        writer.append(np.ones((3, 2), np.float32))
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "unlink", interrupted)
            writer.finish({"coords": np.zeros((3, 2), np.int64)}, ATTRIBUTES)
        writer.checkpoint()
    assert open_file(tmp_path / "a.h5").features.shape == (3, 2)


def test_a_folder_is_of_one_encoder(tmp_path: Path) -> None:
    _write(tmp_path / "a.h5", np.ones((2, 3)))
    _write(tmp_path / "b.h5", np.ones((2, 3)), slide_id="b", encoder_sha256="1" * 64)
    with pytest.raises(ArtefactError, match="b.h5 and a.h5 come from different encoders"):
        open_features(tmp_path)
    _write(tmp_path / "b.h5", np.ones((2, 4)), slide_id="b")
    with pytest.raises(ArtefactError, match="b.h5 has 4 dimensions, a.h5 3"):
        open_features(tmp_path)


def test_folders_without_features(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no features in"):
        open_features(tmp_path)
    with pytest.raises(ArtefactError, match="no such folder"):
        open_features(tmp_path / "absent")
    (tmp_path / "x.h5").write_bytes(b"no")
    with pytest.raises(ArtefactError, match="damaged"):
        open_features(tmp_path)


def test_rows_that_nobody_goes_on_with_are_swept(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with FeatureWriter(tmp_path / f"{name}.h5", "id", 2, "float32") as writer:
            writer.append(np.ones((3, 2)))
            writer.checkpoint()
    sweep_parts(tmp_path, {"b", "c"})
    assert sorted(path.name for path in (tmp_path / ".part").iterdir()) == ["b.json", "b.rows"]


def test_how_rows_come_in_batches_leaves_no_trace(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(1000, 37)).astype(np.float32)
    made = []
    for sizes in ([1000], [1, 2, 300, 697], [256, 256, 256, 232]):
        path = tmp_path / f"{len(sizes)}" / "a.h5"
        for part in np.split(rows, np.cumsum(sizes)[:-1]):
            writer = FeatureWriter(path, "id", 37, "float16").__enter__()  # killed after each part, and begun again
            writer.append(part)
            writer.checkpoint()
            writer.__exit__(None, None, None)
        with FeatureWriter(path, "id", 37, "float16") as writer:
            writer.finish({}, ATTRIBUTES)
        made.append(path.read_bytes())
    assert made[0] == made[1] == made[2]


_TEXT_KIND = b"\x19\x01\x01\x00\x10\x00\x00\x00"  # the datatype of a text of variable length, as HDF5 writes it


@pytest.mark.parametrize(("place", "kind"), [(0, 0x1F), (0, 0x02), (1, 0x15)])
def test_an_attribute_of_a_kind_that_makes_hdf5_crash_is_left_out(tmp_path: Path, place: int, kind: int) -> None:
    path = tmp_path / "s.h5"
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = np.ones((2, 3), np.float32), np.zeros((2, 2), np.int64)
        file.attrs["encoder"], file["coords"].attrs["unit"] = "name", "px"
    data = bytearray(path.read_bytes())
    starts = [match.start() for match in re.finditer(re.escape(_TEXT_KIND), data)]
    assert len(starts) == 2
    data[starts[place] + 1] = kind
    path.write_bytes(data)
    read = open_file(path)
    assert read.attributes is not None and read.geometry is not None
    assert ("unit" in read.geometry, "encoder" in read.attributes) == (place == 1, place == 0)


@pytest.mark.parametrize("name", ["features", "coords"])
@pytest.mark.parametrize("kind", ["lists", "texts", "pairs"])
def test_columns_that_are_no_numbers_are_not_read(tmp_path: Path, name: str, kind: str) -> None:
    dtype, entry = {
        "lists": (h5py.vlen_dtype(np.float32), np.ones(2, np.float32)),
        "texts": (h5py.string_dtype(), "text"),
        "pairs": (np.dtype([("a", "f4"), ("b", "i4")]), (1, 2)),
    }[kind]
    with h5py.File(tmp_path / "s.h5", "w") as file:
        for column, width in (("features", 3), ("coords", 2)):
            odd = file.create_dataset(column, (2, width), dtype if column == name else np.float32)
            odd[0, 0] = entry if column == name else 0
    if name == "coords":
        assert open_file(tmp_path / "s.h5").coords is None
    else:
        with pytest.raises(ArtefactError, match="'features' is .*, not numbers"):
            open_file(tmp_path / "s.h5")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"rows": 1e999}', '{"rows": [1]}', "9" * 5000, "null", None])
def test_a_count_of_rows_that_is_none_is_passed_over(tmp_path: Path, text: str | None) -> None:
    with FeatureWriter(tmp_path / "s.h5", "id", 4, "float32") as writer:
        writer.append(np.ones((2, 4), np.float32))
        writer.checkpoint()
    path = tmp_path / ".part" / "s.json"
    changed = None if text is None or not text.startswith("{") else json.loads(path.read_text()) | json.loads(text)
    path.unlink()
    if text is None:
        os.mkfifo(path)
    else:
        path.write_text(text if changed is None else json.dumps(changed))
    assert FeatureWriter(tmp_path / "s.h5", "id", 4, "float32").kept() == 0


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".h5"])
def test_a_file_of_features_with_a_name_that_is_not_unicode_is_to_be_renamed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / os.fsdecode(b"a\xff" + suffix.encode())
    if suffix == ".pt":
        torch.save(torch.ones(2, 3), tmp_path / "x")
    elif suffix == ".npy":
        with (tmp_path / "x").open("wb") as file:
            np.save(file, np.ones((2, 3), np.float32))
    else:
        with h5py.File(tmp_path / "x", "w") as file:
            file["features"] = np.ones((2, 3), np.float32)
    (tmp_path / "x").rename(path)
    with pytest.raises(
        ArtefactError, match="the name of the file, which is its slide id, is not valid Unicode"
    ) as caught:
        open_file(path)
    assert caught.value.hint == "rename the file"
    path.rename(tmp_path / f"a{suffix}")
    assert open_file(tmp_path / f"a{suffix}").features.shape == (2, 3)
