"""A folder of class folders of images in place of patches."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sgcl_cli.artefacts.features import open_features
from sgcl_cli.artefacts.images import ImageFolder
from sgcl_cli.config import EmbedConfig
from sgcl_cli.errors import ArtefactError, LabelError
from sgcl_cli.progress import Silent
from sgcl_cli.stages.embed import embed


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    rng = np.random.default_rng(0)
    for name in ("tumour/a.png", "tumour/b.jpg", "normal/c.png", "normal/.hidden.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(folder / name)
    (folder / "readme.txt").write_text("not an image")
    return folder


def test_a_folder_of_class_folders(config: EmbedConfig, images: Path, tmp_path: Path) -> None:
    groups = tmp_path / "groups.csv"
    groups.write_text("name,group\na.png,p1\ntumour/b.jpg,p1\nc.png,p2\n")
    reporter = Silent()
    embed(replace(config, patches=str(images), groups=str(groups)), reporter)
    assert "resolution unknown" in reporter.warnings[0]
    file = open_features(config.out).by_slide()["images"]
    assert file.name == ("normal/c.png", "tumour/a.png", "tumour/b.jpg")
    assert file.label.tolist() == [0, 1, 1] and file.label_names == ("normal", "tumour")
    assert file.group == ("p2", "p1", "p1")
    assert file.attributes["source_identity"] == ImageFolder.open(images, crop=1).id != file.attributes["patches_id"]
    assert file.coords is None


def test_images_that_cannot_be_used(config: EmbedConfig, images: Path, tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("name,group\na.png,p1\n")
    with pytest.raises(LabelError, match="no group for 2 of 3 images, first 'normal/c.png'"):
        embed(replace(config, patches=str(images), groups=str(tmp_path / "groups.csv")))
    embed(replace(config, patches=str(images), out=str(tmp_path / "whole")))
    Image.new("RGB", (20, 20)).save(images / "normal" / "d.png")
    (images / "normal" / "b.png").write_bytes(b"no image")
    for workers in (0, 2):
        out = tmp_path / f"out{workers}"
        outcome = embed(replace(config, patches=str(images), out=str(out), workers=workers))
        assert [(failure.path, failure.slide_id) for failure in outcome.failures] == [
            ("normal/b.png", "images"),
            ("normal/d.png", "images"),
        ]
        assert "b.png is not an image of a known format" in outcome.failures[0].reason
        assert "d.png is 20 x 20 pixels" in outcome.failures[1].reason and outcome.total == 5
        assert "normal/d.png" in (out / "failures.csv").read_text()
        file, whole = (open_features(folder).by_slide()["images"] for folder in (out, tmp_path / "whole"))
        assert file.name == whole.name and file.label.tolist() == [0, 1, 1]
        np.testing.assert_allclose(file.features, whole.features, rtol=0, atol=1e-5)
        again = embed(replace(config, patches=str(images), out=str(out)))
        assert again.failures == outcome.failures and again.data["computed"] == 0
    for path in images.glob("*/*"):
        path.write_bytes(b"no image")
    with pytest.raises(
        ArtefactError, match="none of 5 patches or images can be read; first: .*b.png is not an image of a known"
    ):
        embed(replace(config, patches=str(images), out=str(tmp_path / "none")))


def test_an_image_of_absurd_dimensions_is_not_decoded(config: EmbedConfig, images: Path) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    (images / "normal" / "bomb.png").write_bytes(bomb)
    (failure,) = embed(replace(config, patches=str(images))).failures
    assert failure.path == "normal/bomb.png" and "bomb.png is" in failure.reason
