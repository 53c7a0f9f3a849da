"""The batch with a loss that was not finite, read by NumPy alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.artefacts.failed_batch import NAME, save_failed_batch
from sgcl_cli.errors import ArtefactError


def test_numpy_reads_it_without_objects(tmp_path: Path) -> None:
    patches = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    save_failed_batch(tmp_path / NAME, patches, np.array([7, 3]), ["a", "µ"], step=12, epoch=2)
    with np.load(tmp_path / NAME, allow_pickle=False) as found:
        assert sorted(found) == ["epoch", "index", "patches", "slide_id", "step"]
        np.testing.assert_array_equal(found["patches"], patches)
        assert (found["index"].tolist(), found["slide_id"].tolist()) == ([7, 3], ["a", "µ"])
        assert (int(found["step"]), int(found["epoch"])) == (12, 2)


def test_an_earlier_one_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    for step in (1, 2):
        save_failed_batch(tmp_path / NAME, np.zeros((1, 2, 2, 3), np.uint8), np.array([0]), ["a"], step=step, epoch=0)
    assert [path.name for path in tmp_path.iterdir()] == ["failed_batch.npz"]
    with np.load(tmp_path / NAME) as found:
        assert int(found["step"]) == 2


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(ArtefactError, match=r"cannot write .*failed_batch\.npz"):
        save_failed_batch(tmp_path / NAME, np.zeros((1, 2, 2, 3), np.uint8), np.array([0]), ["a"], step=0, epoch=0)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
