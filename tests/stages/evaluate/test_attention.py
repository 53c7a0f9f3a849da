from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from sgcl_cli.artefacts.features import FeatureFile
from sgcl_cli.artefacts.patches import PatchFile
from sgcl_cli.errors import ConfigError
from sgcl_cli.report.attention import legend
from sgcl_cli.stages.evaluate import attention
from sgcl_cli.stages.evaluate.attention import Seen
from sgcl_cli.stages.evaluate.captions import Caption


def seen(tmp_path: Path, tiles: Path, slide_id: str, truth: str = "t", **changes) -> Seen:
    """A slide whose first patch gets all attention that the others leave."""
    patches = PatchFile.open(tiles / "patches" / f"{slide_id}.h5")
    weights = np.full(len(patches), 0.5 / (len(patches) - 1), np.float32)
    weights[0] = 0.5
    attributes = {"patches_path": f"../{tiles.name}/patches/{slide_id}.h5", "patches_id": patches.id} | changes
    path = tmp_path / "features" / f"{slide_id}.h5"
    path.parent.mkdir(exist_ok=True)
    file = FeatureFile(path, slide_id, np.zeros((len(patches), 2)), patches.coords, attributes=attributes)
    return Seen(slide_id, file, Caption(f"{truth} slides", 0.9, f"{truth}, 90 %"), weights)


@pytest.fixture
def tiles(make_patches) -> Path:
    folder = make_patches(slides={"a": (4, 4), "b": (5, 3)})
    (folder / "thumbnails").mkdir()
    for slide_id in ("a", "b"):
        picture = np.full((100, 200, 3), 220, np.uint8)
        (folder / "thumbnails" / f"{slide_id}.jpg").write_bytes(simplejpeg.encode_jpeg(picture, quality=95))
    return folder


@pytest.fixture(autouse=True)
def with_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches as sgcl tile makes them know their slide's size."""
    opened = PatchFile.open

    def sized(path):
        file = opened(path)
        file.geometry.update(level0_width=400, level0_height=200)
        return file

    monkeypatch.setattr(attention.PatchFile, "open", staticmethod(sized))


def test_overlays_and_montages_are_drawn_where_the_features_say(tmp_path: Path, tiles: Path) -> None:
    slides = [seen(tmp_path, tiles, "a", "<b>one"), seen(tmp_path, tiles, "b", "two")]
    files, sections = attention.draw(tmp_path / "out", slides, None)
    assert files == ["attention/a.jpg", "attention/b.jpg", "figures/montage_1.jpg", "figures/montage_2.jpg"]
    picture = simplejpeg.decode_jpeg((tmp_path / "out/attention/a.jpg").read_bytes(), colorspace="RGB")
    assert picture.shape == (500 + len(legend(1000)), 1000, 3)
    first = picture[40, 40].astype(int)
    assert first[0] > first[2] + 40, "the first patch, which got most, is red"
    assert np.abs(picture[450, 900].astype(int) - 220).max() < 8, "where there is no patch nothing is tinted"
    assert [len(section.pictures) for section in sections] == [2, 2] and not any(
        "No pictures" in note for note in sections[0].notes
    )
    assert sections[0].pictures[0].caption == "a: <b>one, 90 %."
    assert sections[1].pictures[1].caption.startswith("Patches of two slides with most and least attention")


def test_other_patches_than_those_embedded_are_not_drawn_on(tmp_path: Path, tiles: Path) -> None:
    slides = [seen(tmp_path, tiles, "a", patches_id="another"), seen(tmp_path, tiles, "b")]
    files, sections = attention.draw(tmp_path / "out", slides, None)
    assert files == ["attention/b.jpg", "figures/montage_1.jpg"]
    assert any("No pictures of 1 of 2 slides (a)" in note for note in sections[0].notes)


def test_patches_may_lie_elsewhere_and_a_wrong_folder_is_refused(tmp_path: Path, tiles: Path) -> None:
    slides = [seen(tmp_path, tiles, "a", patches_path="gone/a.h5")]
    assert attention.draw(tmp_path / "out", slides, None)[0] == []
    assert attention.draw(tmp_path / "out", slides, str(tiles))[0][0] == "attention/a.jpg"
    with pytest.raises(ConfigError, match="holds the patches of none of the slides"):
        attention.draw(tmp_path / "out", slides, str(tmp_path / "features"))


def test_without_thumbnails_montages_remain(tmp_path: Path, tiles: Path) -> None:
    (tiles / "thumbnails/a.jpg").write_bytes(b"not a JPEG")
    files, sections = attention.draw(tmp_path / "out", [seen(tmp_path, tiles, "a")], None)
    assert files == ["figures/montage_1.jpg"] and len(sections[1].pictures) == 1
