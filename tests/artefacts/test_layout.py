from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sgcl_cli.artefacts import layout
from sgcl_cli.artefacts.images import ImageFolder
from sgcl_cli.artefacts.patches import PatchIndex
from sgcl_cli.errors import ArtefactError

Make = Callable[..., Path]


def as_trident(folder: Path, name: str = "20x_32px_0px_overlap") -> Path:
    tree = folder / name / "patches"
    tree.mkdir(parents=True)
    for path in sorted((folder / "patches").iterdir()):
        path.rename(tree / f"{path.stem}_patches.h5")
    (folder / "patches").rmdir()
    return tree


@pytest.mark.parametrize(
    ("mpp", "name"), [(0.5, 20), (0.5044, 20), (0.25, 40), (0.2212, 40), (1.0, 10), (0.33, 40), (4.0, 5), (0.125, 80)]
)
def test_paths_are_tridents(mpp, name):
    assert layout.magnification(mpp) == name
    folder = layout.patches_folder(Path("out"), "trident", mpp=mpp, patch_size=256, overlap=16)
    assert folder.as_posix() == f"out/{name}x_256px_16px_overlap/patches"
    assert layout.patches_file(folder, "trident", "a.b").name == "a.b_patches.h5"
    assert layout.patches_file(Path("out/patches"), "sgcl", "a_patches").name == "a_patches.h5"


def test_an_index_opens_either_tree_from_any_of_its_folders(make_patches: Make):
    folder = make_patches(slides={"a1": (2, 1), "a": (3, 1), "a_patches": (1, 1)})
    ours = PatchIndex.open(folder)
    tree = as_trident(folder)
    (folder / "overlays").mkdir()
    (folder / "overlays" / "a.jpg").touch()
    for given in (folder, tree.parent, tree):
        index = PatchIndex.open(given, pixels=True)
        assert index.slide_ids == ours.slide_ids == ("a", "a1", "a_patches")
        assert index.id == ours.id and index.read(5)[:2] == b"\xff\xd8"
        assert not ImageFolder.is_one(given)
    assert [layout.slide_id(path) for path in layout.files(tree)] == ["a", "a1", "a_patches"]


def test_two_trees_are_ambiguous(make_patches: Make):
    folder = make_patches()
    tree = as_trident(folder)
    make_patches()
    with pytest.raises(ArtefactError, match="several folders of patches: patches, 20x_32px_0px_overlap/patches"):
        PatchIndex.open(folder)
    assert len(PatchIndex.open(tree)) == len(PatchIndex.open(folder / "patches")) == 31


@pytest.mark.parametrize(
    ("present", "found"),
    [
        (["a.h5", "pt_files/a.pt"], ["."]),
        (["h5_files/a.h5", "pt_files/a.pt"], ["h5_files"]),
        (["pt_files/a.pt"], ["pt_files"]),
        (["20x_256px_0px_overlap/features_uni/a.h5"], ["20x_256px_0px_overlap/features_uni"]),
        (["features_a/s.h5", "features_b/s.h5"], ["features_a", "features_b"]),
        (["notes.txt"], []),
    ],
)
def test_features_are_found_in_every_layout(tmp_path: Path, present: list[str], found: list[str]) -> None:
    for name in present:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in layout.features_trees(tmp_path)] == found


def test_names_of_encoders_are_names_of_folders() -> None:
    folder = layout.features_folder(Path("o"), "trident", tree="20x_256px_0px_overlap", encoder="timm:hf-hub:a/b")
    assert folder == Path("o/20x_256px_0px_overlap/features_timm_hf-hub_a_b")
