"""HDF5 files that cannot be written as a whole: an error of the system, no word of HDF5, and no crash when Python ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from sgcl_cli.artefacts import hdf5


@pytest.mark.parametrize("rows", [0, 3, 100_000])
def test_what_is_written_reads_back(tmp_path: Path, rows: int) -> None:
    values = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    with hdf5.created(tmp_path / "x.h5") as file:
        file["values"] = values
        file.create_dataset("later", shape=values.shape, dtype=np.float32)[:] = values
        file.attrs["text"] = "x" * 1000
    with h5py.File(tmp_path / "x.h5") as file:
        np.testing.assert_array_equal(file["values"][:], values)
        np.testing.assert_array_equal(file["later"][:], values)
        assert file.attrs["text"] == "x" * 1000
        if rows:
            offset = file["values"].id.get_offset()
            np.testing.assert_array_equal(
                np.fromfile(tmp_path / "x.h5", np.float32, 2 * rows, offset=offset), values.flat
            )


def test_an_error_of_the_block_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"), hdf5.created(tmp_path / "x.h5"):
        raise KeyError("mine")


PROGRAM = """
import resource, sys
from pathlib import Path
import numpy as np
from sgcl_cli.artefacts.features import FeatureWriter
from sgcl_cli.artefacts.patches import PatchWriter
from sgcl_cli.errors import WriteError
folder, kind, limit = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
rows = np.ones((40, 16), np.float32)
places = np.zeros((40, 2), np.int64)
try:
    if kind == "features":
        with FeatureWriter(folder / "s.h5", "id", 16, "float32") as writer:
            writer.append(rows)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            words = dict.fromkeys(("slide_id", "encoder", "encoder_sha256", "patches_id", "config"), "x")
            writer.finish({"coords": places, "grid": places.astype(np.int32)}, words, {"patch_size": 4})
    else:
        with PatchWriter(folder / "s.h5") as writer:
            for _ in range(40):
                writer.append(bytes(100))
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            words = {"id": "x", "slide_id": "s", "config": {}, "source": {}}
            writer.finish(coords=places, grid=places.astype(np.int32), tissue=np.ones(40, np.float32), attributes=words,
                          coords_attributes={"patch_size": 4}, pixels=True)
except WriteError as error:
    print(error.message)
"""


@pytest.mark.parametrize("kind", ["features", "patches"])
@pytest.mark.parametrize("limit", [0, 1000, 2500, 4200, 5500])
def test_a_file_that_grows_too_large_is_one_line(tmp_path: Path, kind: str, limit: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), kind, str(limit)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 's.h5'} is larger than the system allows a file to be\n"
    assert not list(tmp_path.glob("*.h5")) and not list(tmp_path.glob(".*.tmp"))
