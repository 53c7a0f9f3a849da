from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from sgcl_cli.config import EmbedConfig
from sgcl_cli.engine import runtime as engine
from sgcl_cli.engine.loader import Batch
from sgcl_cli.errors import ArtefactError, ConfigError
from sgcl_cli.stages.embed.bags import Todo
from sgcl_cli.stages.embed.sources import Decoded, patches


def opened(folder: Path, **settings: object) -> Decoded:
    given = {"out": str(folder / "out"), "patches": str(folder), "encoder": "resnet18", "batch": 8, "workers": 0}
    source = patches(EmbedConfig(**{**given, **settings}))  # type: ignore[arg-type]
    assert isinstance(source, Decoded)
    return source


def test_each_file_of_patches_is_a_bag(make_patches: Callable[..., Path]) -> None:
    source = opened(make_patches())
    assert [(bag.slide_id, bag.start, bag.count) for bag in source.bags] == [("a", 0, 16), ("b", 16, 15)]
    assert source.failures == [] and source.kind.patch_size == 32


def test_a_damaged_file_is_a_failure(make_patches: Callable[..., Path]) -> None:
    folder = make_patches()
    (folder / "patches" / "c.h5").write_bytes(b"no HDF5")
    source = opened(folder)
    assert [bag.slide_id for bag in source.bags] == ["a", "b"]
    assert [(failure.slide_id, failure.path) for failure in source.failures] == [("c", "patches/c.h5")]


def test_batches_of_what_is_left_end_at_the_borders_of_bags(make_patches: Callable[..., Path]) -> None:
    folder = make_patches()
    source = opened(folder)
    config = EmbedConfig(out="o", patches=str(folder), encoder="resnet18", batch=8, workers=0)
    runtime = engine.start("cpu", "fp32", 1)
    todo = [Todo(source.bags[0], 12), Todo(source.bags[1], 9)]
    found = [batch.index.tolist() for batch in source.arrivals(todo, config, runtime, 1) if isinstance(batch, Batch)]
    assert found == [[12, 13, 14, 15], [25, 26, 27, 28, 29, 30]]


def test_a_patch_is_shown_by_its_corner(make_patches: Callable[..., Path]) -> None:
    source = opened(make_patches())
    shown = source.show("b", (64, 32)).astype(int)
    file = source.decoder.index.files[1]  # type: ignore[attr-defined]
    expected = np.asarray(Image.open(io.BytesIO(file.read(7)))).astype(int)
    assert np.abs(shown - expected).max() <= 3
    assert source.picture("b") is None


def test_groups_are_for_images(make_patches: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="--groups is for a folder of class folders of images") as caught:
        opened(make_patches(), groups="groups.csv")
    assert caught.value.hint == "for slides give patients in labels.csv to sgcl evaluate"


def test_a_peers_coordinates_need_slides(tmp_path: Path) -> None:
    (tmp_path / "patches").mkdir()
    with h5py.File(tmp_path / "patches" / "a.h5", "w") as file:
        file["coords"] = np.zeros((1, 2), np.int64)
        file["coords"].attrs.update({"patch_size": 64, "patch_level": 0})
    with pytest.raises(ConfigError, match="holds coordinates of CLAM or TRIDENT without pixels") as caught:
        opened(tmp_path)
    assert caught.value.hint == "add --slides FOLDER, the folder of the slides"


def test_patches_without_pixels_are_refused(make_patches: Callable[..., Path]) -> None:
    with pytest.raises(ArtefactError):
        opened(make_patches(pixels=False))
