from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from sgcl_cli.artefacts.features import FeatureWriter
from sgcl_cli.engine.loader import Missing
from sgcl_cli.errors import ArtefactError
from sgcl_cli.progress import Silent
from sgcl_cli.stages.embed.bags import Bag
from sgcl_cli.stages.embed.writer import FeatureFiles

PLAIN = {"encoder": "tiny", "encoder_sha256": "e", "patches_id": "p", "config": "{}"}


def bag(name: str, start: int, count: int, folder: Path, tolerant: bool = False) -> Bag:
    coords = np.arange(count, dtype=np.int64)[:, None] * [512, 0]
    columns = {"coords": coords, "grid": coords.astype(np.int32)}
    return Bag(name, f"id {name}", folder / f"{name}.h5", start, count, columns, {}, {"mpp_actual": 0.5}, tolerant)


def files_of(folder: Path, *bags: Bag) -> FeatureFiles:
    return FeatureFiles(
        bags,
        lambda bag: FeatureWriter(folder / "out" / f"{bag.slide_id}.h5", bag.slide_id, 2, "float32"),
        lambda bag: {"slide_id": bag.slide_id, **PLAIN},
        folder,
        Silent().task("embed", None, "patches"),
    )


def features(*numbers: int) -> tuple[np.ndarray, np.ndarray]:
    index = np.array(numbers, np.int64)
    return index, np.stack([index, -index], axis=1).astype(np.float32)


def stored(folder: Path, name: str) -> tuple[list[float], list[int]]:
    with h5py.File(folder / "out" / f"{name}.h5") as file:
        return file["features"][:, 0].tolist(), file["coords"][:, 0].tolist()


def missing(number: int) -> Missing:
    return Missing(number, ArtefactError(f"patch {number} is damaged", "tile again"))


def test_rows_are_written_in_their_order_whatever_order_they_come_in(tmp_path: Path) -> None:
    with files_of(tmp_path, bag("a", 0, 3, tmp_path), bag("b", 3, 2, tmp_path)) as files:
        files.take(*features(4, 2, 0))
        assert not (tmp_path / "out" / "a.h5").exists()
        files.take(*features(3, 1))
    assert stored(tmp_path, "a") == ([0, 1, 2], [0, 512, 1024])
    assert stored(tmp_path, "b") == ([3, 4], [0, 512]) and files.failures == []


def test_a_tolerant_bag_leaves_out_what_cannot_be_read(tmp_path: Path) -> None:
    with files_of(tmp_path, bag("a", 0, 3, tmp_path, tolerant=True)) as files:
        files.take(*features(2, 0))
        files.miss(missing(1))
    assert stored(tmp_path, "a") == ([0, 2], [0, 1024])


def test_another_bag_is_refused_and_the_rest_goes_on(tmp_path: Path) -> None:
    with files_of(tmp_path, bag("a", 0, 2, tmp_path), bag("b", 2, 1, tmp_path)) as files:
        files.miss(missing(1))
        assert files.wanted(np.array([0, 2])).tolist() == [False, True]
        files.take(*features(0, 2))
    (failure,) = files.failures
    assert (failure.slide_id, failure.path, failure.reason) == ("a", "a.h5", "patch 1 is damaged")
    assert stored(tmp_path, "b") == ([2], [0]) and not (tmp_path / "out" / "a.h5").exists()


def test_a_bag_without_a_readable_row_is_a_failure(tmp_path: Path) -> None:
    with files_of(tmp_path, bag("a", 0, 2, tmp_path, tolerant=True)) as files:
        files.miss(missing(0))
        files.miss(missing(1))
    (failure,) = files.failures
    assert failure.reason == "none of 2 patches or images can be read; first: patch 0 is damaged"
    assert failure.hint == "tile again"


def test_an_empty_bag_has_an_empty_file(tmp_path: Path) -> None:
    with files_of(tmp_path, bag("a", 0, 0, tmp_path), bag("b", 0, 1, tmp_path)) as files:
        files.take(*features(0))
    assert stored(tmp_path, "a") == ([], []) and stored(tmp_path, "b") == ([0], [0])


@pytest.mark.parametrize("rows", [(0, 1), (1, 0)])
def test_an_interrupted_bag_keeps_what_was_in_turn(tmp_path: Path, rows: tuple[int, ...]) -> None:
    one = bag("a", 0, 4, tmp_path)
    with files_of(tmp_path, one) as files:
        files.take(*features(*rows, 3))
        assert files.position(one) == 2
    assert not (tmp_path / "out" / "a.h5").exists()
