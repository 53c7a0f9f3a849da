from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from benchmarks.study import material, protocol
from sgcl_cli.artefacts import store
from sgcl_cli.artefacts.images import ImageFolder
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.errors import ConfigError


class TestMaterial:
    def images(self, folder: Path, classes: str = "AB", count: int = 4) -> Path:
        for kind in classes:
            (folder / kind).mkdir(parents=True)
            for number in range(count):
                image = np.full((8, 8, 3), 10 * number, np.uint8)
                (folder / kind / f"{number}.jpg").write_bytes(simplejpeg.encode_jpeg(image))
        return folder

    def test_class_folders_become_a_task_with_development_halves(self, tmp_path: Path) -> None:
        for part in ("train", "test"):
            self.images(tmp_path / "own" / part)
        task = {"name": "glands", "train": "own/train", "test": "own/test", "side": 8, "development": 0.5}
        sets = material.images(task, tmp_path, tmp_path / "out")
        assert {name: len(ImageFolder.open(given.folder, crop=8)) for name, given in sets.items()} == {
            "glands train": 8,
            "glands test": 8,
            "glands development-train": 4,
            "glands development-test": 4,
        }
        assert all(given.groups is None and given.side == 8 for given in sets.values())

    def test_a_table_of_images_gives_classes_and_patients(self, tmp_path: Path) -> None:
        self.images(tmp_path / "own")
        rows = [
            {"image": f"{kind}/{number}.jpg", "label": f"class {kind}", "group": f"p{number}"}
            for kind in "AB"
            for number in range(4)
        ]
        for part, half in (("train", rows[::2]), ("test", rows[1::2])):
            store.write_csv(tmp_path / "own" / f"{part}.csv", ("image", "label", "group"), half)
        task = {"name": "own", "train": "own/train.csv", "test": "own/test.csv", "side": 8}
        found = material.images(task, tmp_path, tmp_path / "out")["own train"]
        assert found.groups is not None
        index = ImageFolder.open(found.folder, found.groups, crop=8)
        assert index.label_names == ("class A", "class B")
        assert index.groups == ("p0", "p2", "p0", "p2")

    def test_images_that_cannot_be_told_apart_or_are_absent_are_refused(self, tmp_path: Path) -> None:
        self.images(tmp_path / "own")
        rows = [{"image": f"{kind}/0.jpg", "label": "one"} for kind in "AB"]
        store.write_csv(tmp_path / "twice.csv", ("image", "label"), rows)
        task = {"name": "own", "train": "twice.csv", "test": "own", "side": 8}
        with pytest.raises(ConfigError, match=r"twice\.csv has 2 images one/0\.jpg"):
            material.images(task, tmp_path, tmp_path / "out")
        with pytest.raises(ConfigError, match="absent has no images"):
            material.images({**task, "train": "absent"}, tmp_path, tmp_path / "out")

    def test_a_corpus_that_is_tiled_is_copied(self, tmp_path: Path, make_patches: Callable[..., Path]) -> None:
        given = protocol.load(protocol.DEFAULT, "gpu")
        source = make_patches()
        material.ready_corpus(given, source, tmp_path / "corpus")
        assert PatchIndex.open(tmp_path / "corpus").id == PatchIndex.open(source).id
        with pytest.raises(ConfigError, match=r"no patches/\*\.h5"):
            material.ready_corpus(given, tmp_path / "absent", tmp_path / "other")
        seen = protocol.load(protocol.DEFAULT, "gpu", ["sgcl, hold-out seen"])
        with pytest.raises(ConfigError, match="no hold-out can be added"):
            material.ready_corpus(seen, source, tmp_path / "other")
