from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sgcl_cli.artefacts import exports
from sgcl_cli.artefacts.features import FeatureWriter

pytestmark = pytest.mark.filterwarnings("ignore:The .future.infer_string. option")  # anndata's own, when it reads
COORDS = np.array([[0, 0], [64, 0], [0, 64]])


def write(
    path: Path, rows: np.ndarray, identity: str, size: tuple[int, int] | None = (256, 128)
) -> dict[str, tuple[Path, str]]:
    attributes = {"slide_id": path.stem, "encoder": "e", "encoder_sha256": "s", "patches_id": "p", "config": "{}"}
    path.unlink(missing_ok=True)
    with FeatureWriter(path, identity, rows.shape[1], "float16") as writer:
        writer.append(rows)
        columns = {"coords": COORDS, "grid": COORDS // 64, "label": np.array([0, -1, 1], np.int16)}
        geometry = {"patch_size_level0": 65, "patch_size_level0_xy": (64.5, 64.5), "mpp_level0": 0.25}
        geometry |= {} if size is None else {"level0_width": size[0], "level0_height": size[1]}
        writer.finish(columns, {**attributes, "label_names": '["t", "n"]'}, geometry)
    return {path.stem: (path, identity)}


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


def test_clams_tensors_follow_the_features(tmp_path: Path, rows: np.ndarray) -> None:
    sources = write(tmp_path / "a.h5", rows, "one")
    assert exports.export("pt", tmp_path, sources) == 1
    tensor = torch.load(tmp_path / "pt_files" / "a.pt", weights_only=True)
    assert tensor.dtype == torch.float32 and np.array_equal(tensor.numpy(), rows.astype(np.float16).astype(np.float32))
    assert exports.export("pt", tmp_path, sources) == 0
    assert exports.export("pt", tmp_path, write(tmp_path / "a.h5", rows + 1, "two")) == 1
    assert torch.load(tmp_path / "pt_files" / "a.pt", weights_only=True).mean() > tensor.mean() + 0.5
    (tmp_path / "pt_files" / "a.pt").write_bytes(b"")
    assert exports.export("pt", tmp_path, write(tmp_path / "a.h5", rows, "two")) == 1


def test_anndata_has_places_and_resolution(tmp_path: Path, rows: np.ndarray) -> None:
    anndata = pytest.importorskip("anndata")
    exports.export("anndata", tmp_path, write(tmp_path / "a.h5", rows, "one"))
    data = anndata.read_h5ad(tmp_path / "anndata" / "a.h5ad")
    np.testing.assert_allclose(data.X, rows, atol=2e-3)
    assert data.obsm["spatial"].tolist() == (COORDS + 32.25).tolist()
    assert data.uns["mpp"] == 0.25 and data.uns["sgcl"]["id"] == "one"
    assert "spatial" not in data.uns
    assert data.obs["x"].tolist() == [0, 64, 0] and data.obs["label"].isna().tolist() == [False, True, False]


def test_anndata_has_the_names_of_images(tmp_path: Path, rows: np.ndarray) -> None:
    anndata = pytest.importorskip("anndata")
    attributes = {"slide_id": "a", "encoder": "e", "encoder_sha256": "s", "patches_id": "p", "config": "{}"}
    names = ("t/1.png", "n/1.png", "n/2.png")
    with FeatureWriter(tmp_path / "a.h5", "one", rows.shape[1], "float16") as writer:
        writer.append(rows)
        columns = {"label": np.array([0, 1, 1], np.int16), "name": names, "group": ("g", "g", "h")}
        writer.finish(columns, {**attributes, "label_names": '["t", "n"]'})
    exports.export("anndata", tmp_path, {"a": (tmp_path / "a.h5", "one")})
    data = anndata.read_h5ad(tmp_path / "anndata" / "a.h5ad")
    assert data.obs["name"].tolist() == [*names] and data.obs["group"].tolist() == ["g", "g", "h"]


@pytest.mark.parametrize(("size", "shape"), [((256, 128), (64, 128)), ((40_000, 20_000), (1000, 2000))])
def test_anndata_has_the_slides_picture_where_scanpy_and_squidpy_look(
    tmp_path: Path, rows: np.ndarray, size, shape
) -> None:
    """Read as they do: a library in uns['spatial'], and spots times the factor of the picture that is shown."""
    anndata = pytest.importorskip("anndata")
    whole = np.zeros((2 * shape[0], shape[1], 3), np.uint8)  # of oblong pixels: twice as high as level 0
    whole[: len(whole) // 2] = (200, 100, 0)
    sources = write(tmp_path / "a.h5", rows, "one", size)
    exports.export("anndata", tmp_path, sources, lambda slide_id: {"a": whole}[slide_id])
    data = anndata.read_h5ad(tmp_path / "anndata" / "a.h5ad")
    (library,) = data.uns["spatial"]
    assert library == "a"
    for name, longest in (("hires", shape[1]), ("lowres", min(600, shape[1]))):
        shown = data.uns["spatial"][library]["images"][name]
        factor = data.uns["spatial"][library]["scalefactors"][f"tissue_{name}_scalef"]
        assert shown.dtype == np.uint8 and shown.shape == (longest // 2, longest, 3)
        assert factor == pytest.approx(longest / size[0])
        assert (shown[: longest // 4 - 1] == (200, 100, 0)).all() and (shown[longest // 4 + 1 :] == 0).all()
        places = data.obsm["spatial"] * factor
        assert places[2].tolist() == pytest.approx([32.25 * factor, 96.25 * factor])
    assert data.uns["spatial"][library]["scalefactors"]["spot_diameter_fullres"] == 64.5


def test_anndata_has_no_picture_of_a_slide_of_unknown_size(tmp_path: Path, rows: np.ndarray) -> None:
    anndata = pytest.importorskip("anndata")
    exports.export(
        "anndata", tmp_path, write(tmp_path / "a.h5", rows, "one", None), lambda slide_id: np.zeros((2, 2, 3))
    )
    data = anndata.read_h5ad(tmp_path / "anndata" / "a.h5ad")
    assert "spatial" not in data.uns and data.obsm["spatial"].tolist() == (COORDS + 32.25).tolist()


def test_parquet_has_a_row_a_patch(tmp_path: Path, rows: np.ndarray) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    exports.export("parquet", tmp_path, write(tmp_path / "a.h5", rows, "one"))
    table = pyarrow.parquet.read_table(tmp_path / "parquet" / "a.parquet")
    np.testing.assert_allclose(np.array(table["features"].to_pylist()), rows, atol=2e-3)
    assert table["label"].to_pylist() == ["t", None, "n"] and table["y"].to_pylist() == [0, 0, 64]
    assert table.schema.metadata[b"id"] == b"one"
