from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sgcl_cli.config import TileConfig
from sgcl_cli.stages.tile.job import bounds_text, class_counts, patches_path, workers_of


def config(**settings: object) -> TileConfig:
    return TileConfig.resolve({"slides": ["a.svs"], "out": "out", "mpp": 0.5, "patch_size": 256, **settings})


def test_classes_are_counted_where_they_occur() -> None:
    label = np.array([2, 0, -1, 2, -1, 2], np.int16)
    assert class_counts(label, ("fat", "stroma", "tumour")) == {"fat": 1, "tumour": 3}
    assert class_counts(np.full(3, -1, np.int16), ("fat",)) == {}


def test_bounds_are_four_numbers_or_nothing() -> None:
    assert bounds_text([10, 20, 300, 400]) == "10 20 300 400"
    assert bounds_text(None) == ""


@pytest.mark.parametrize(
    ("layout", "path"),
    [("sgcl", "out/patches/s 1.h5"), ("clam", "out/patches/s 1.h5")],
)
def test_patches_lie_in_one_folder(layout: str, path: str) -> None:
    assert patches_path(config(layout=layout), "s 1") == Path(path)


def test_the_tree_of_trident_names_resolution_size_and_overlap() -> None:
    path = patches_path(config(layout="trident", overlap=32), "s")
    assert path.name == "s_patches.h5" and "256px_32px_overlap" in path.parts[1]


def test_workers_are_as_asked_or_one_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert (workers_of(config(workers=7)), workers_of(config())) == (7, 3)
