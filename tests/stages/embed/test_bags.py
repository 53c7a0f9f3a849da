from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.errors import ArtefactError
from sgcl_cli.stages.embed.bags import Kind, bag_of, failed, kind_of, stored_picture


def test_a_bag_has_the_columns_of_its_file(make_patches: Callable[..., Path]) -> None:
    index = PatchIndex.open(make_patches(), pixels=True)
    bag = bag_of(index.files[1], 16)
    assert (bag.slide_id, bag.source_id, bag.start, bag.count, bag.tolerant) == ("b", "b-5x3-32-0", 16, 15, False)
    assert bag.columns["coords"].tolist() == [[x * 32, y * 32] for y in range(3) for x in range(5)]
    assert bag.columns["label"].tolist() == [0, 0, 1, 1, 1] * 3
    assert bag.attributes["source_identity"] == "identity of b"
    assert json.loads(bag.attributes["label_names"]) == ["fine", "coarse"]


def test_what_is_common_to_all_patches(make_patches: Callable[..., Path]) -> None:
    assert kind_of(PatchIndex.open(make_patches(), pixels=True)) == Kind(0.5, 32, 0)


def test_the_kind_of_unknown_patches_has_no_name() -> None:
    assert Kind().tree is None and Kind(0.5).tree is None
    tree = Kind(0.5, 256, 16).tree
    assert tree is not None and tree.endswith("256px_16px_overlap")


def test_the_picture_that_tiling_left_is_found(make_patches: Callable[..., Path]) -> None:
    folder = make_patches()
    file = folder / "patches" / "a.h5"
    assert stored_picture(file) is None
    (folder / "thumbnails").mkdir()
    Image.fromarray(np.full((20, 30, 3), 120, np.uint8)).save(folder / "thumbnails" / "a.jpg")
    picture = stored_picture(file)
    assert picture is not None and picture.shape == (20, 30, 3) and abs(int(picture.mean()) - 120) <= 2
    (folder / "thumbnails" / "a.jpg").write_bytes(b"no JPEG")
    assert stored_picture(file) is None


def test_damaged_files_are_failures_by_their_place(tmp_path: Path) -> None:
    (failure,) = failed({tmp_path / "patches" / "a.h5": ArtefactError("it is damaged", "tile again")}, tmp_path)
    assert (failure.slide_id, failure.path, failure.reason, failure.hint) == (
        "a", "patches/a.h5", "it is damaged", "tile again"
    )  # fmt: skip
