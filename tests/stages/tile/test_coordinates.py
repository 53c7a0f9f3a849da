from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from sgcl_cli.artefacts import coordinates as files
from sgcl_cli.errors import SlideError
from sgcl_cli.stages.tile.coordinates import Placed, placed, settle
from sgcl_cli.stages.tile.job import Job
from sgcl_cli.stages.tile.plan import open_slide

MakeJob = Callable[..., Job]


def write(path: Path, corners: list[list[int]], **attributes: object) -> Path:
    """A coordinate file as CLAM writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["coords"] = np.array(corners, np.int64)
        file["coords"].attrs.update({"patch_size": 64, "patch_level": 0, **attributes})
    return path


def place(job: Job, path: Path, sha256: str | None = None) -> Placed:
    with open_slide(job) as slide:
        return placed(path, sha256 or files.read(path).sha256, slide, job.config)


def test_patches_stand_in_the_order_of_the_file(make_job: MakeJob, tmp_path: Path) -> None:
    found = place(make_job(), write(tmp_path / "a.h5", [[300, 20], [10, 500]]))
    assert found.lattice.coords.tolist() == [[300, 20], [10, 500]] and found.overhanging == 0
    assert found.lattice.grid.tolist() == [[-1, -1]] * 2 and found.geometry.patch_size_level0 == pytest.approx(64)


def test_patches_over_the_edge_are_left_out(make_job: MakeJob, tmp_path: Path) -> None:
    found = place(make_job(), write(tmp_path / "a.h5", [[0, 0], [961, 0], [960, 960]]))
    assert (found.lattice.coords.tolist(), found.overhanging) == ([[0, 0], [960, 960]], 1)


@pytest.mark.parametrize(
    ("corners", "attributes", "message", "hint"),
    [
        ([[0, 0]], {"patch_size": 128}, "128 level-0 pixels wide, which are 256 um", "--patch-size 128 --mpp 2"),
        ([[0, 0]], {"patch_level": 3}, "counts in pixels of level 3, a.tif has 1 levels", "another slide"),
        ([[0, 0], [2000, 0]], {}, "1 of 2 patches of a.h5 lie outside a.tif", "not of level 0"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    make_job: MakeJob, tmp_path: Path, corners: list[list[int]], attributes: dict[str, int], message: str, hint: str
) -> None:
    path = write(tmp_path / "a.h5", corners, **attributes)
    with pytest.raises(SlideError) as caught:
        place(make_job(), path)
    assert message in caught.value.message and hint in str(caught.value.hint)


def test_a_file_that_has_changed_is_refused(make_job: MakeJob, tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="a.h5 has changed while the cohort was tiled"):
        place(make_job(), write(tmp_path / "a.h5", [[0, 0]]), "0" * 64)


def test_slides_without_a_usable_file_are_refused_one_by_one(make_job: MakeJob, tmp_path: Path) -> None:
    folder = tmp_path / "peer"
    write(folder / "a.h5", [[0, 0]])
    write(folder / "other.h5", [[0, 0]])
    (folder / "c.h5").write_bytes(b"no HDF5")
    jobs = [make_job(name, from_coords=folder) for name in "abc"]
    found = settle(jobs[0].config, [job.entry for job in jobs])
    assert [*found.files] == ["a"] and found.files["a"][1] == files.read(folder / "a.h5").sha256
    assert found.refused["b"].message == "there is no coordinate file for b in peer"
    assert "c.h5" in found.refused["c"].message and str(folder) not in found.refused["c"].message
    assert found.notes == ("--from-coords: 1 files belong to no slide, first other.h5",)
