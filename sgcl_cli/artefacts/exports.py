"""Exports of finished feature files to the formats of other tools; repeated when the features have changed.

pt: CLAM's ``pt_files/<slide_id>.pt``, a float32 tensor (N, D) (https://github.com/mahmoodlab/CLAM, README).
anndata: ``anndata/<slide_id>.h5ad``, one row per patch; ``obsm['spatial']`` are the centres of the patches in level-0 pixels, and
``uns['spatial'][<slide_id>]`` has the image of the slide and its scale factors, as scanpy and squidpy expect
(https://squidpy.readthedocs.io, ``squidpy.pl.spatial_scatter``).
parquet: ``parquet/<slide_id>.parquet``, one row per patch; ``features`` is a fixed-size list of float32.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import peers, store
from sgcl_cli.artefacts.features import FeatureFile, open_file
from sgcl_cli.errors import ArtefactError, ConfigError

Picture = NDArray[np.uint8]  # a whole slide, (H, W, 3), RGB

_MADE = ".made.json"  # beside the files: id of the features and size of the export, by slide
_SIZE = {"level0_width", "level0_height"}  # attributes without which a picture has no scale
_PICTURES = {"hires": 2000, "lowres": 600}  # longest sides in pixels, as in Space Ranger


def check(form: str) -> None:
    """Check that the library of a format is installed.

    :raises ConfigError: it is not installed.
    """
    library = {"anndata": "anndata", "parquet": "pyarrow"}.get(form)
    try:
        if library is not None:
            __import__(library)
    except ImportError as error:
        raise ConfigError(f"--also {form} needs {library}: {error}", f"pip install 'sgcl[{form}]'") from error


def _none(slide_id: str) -> Picture | None:
    return None


def export(
    form: str,
    folder: Path,
    sources: Mapping[str, tuple[Path, str]],
    picture: Callable[[str], Picture | None] = _none,
) -> int:
    """Export features to one format, except those exported before from the same features.

    :param folder: parent of the format's folder.
    :param sources: slide id -> its feature file and the id of that file.
    :param picture: slide id -> image of the whole slide, up to some thousand pixels a side; None if there is none.
    :returns: number of files written.
    :raises ArtefactError: a file cannot be written.
    """
    name, suffix, write = _FORMS[form]
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    record = target / _MADE
    made = _read(record)
    written = 0
    for slide_id, (source, identity) in sources.items():
        path = target / f"{slide_id}{suffix}"
        if path.exists() and made.get(slide_id) == [identity, path.stat().st_size]:
            continue
        with store.atomic(path) as temporary:
            write(open_file(source), temporary, partial(picture, slide_id))
        made[slide_id] = [identity, path.stat().st_size]
        written += 1
    store.write_json(record, made)
    return written


def _read(record: Path) -> dict[str, Any]:
    try:
        content = store.read_json(record)
    except ArtefactError:
        return {}
    return content if isinstance(content, dict) else {}


def _pt(file: FeatureFile, path: Path, picture: Callable[[], Picture | None]) -> None:
    import torch

    from sgcl_cli.artefacts import tensors

    tensors.save(torch.from_numpy(file.features.astype(np.float32)), path)


def _columns(file: FeatureFile) -> dict[str, Any]:
    """Columns other than the features, by name; positions in level-0 pixels."""
    found: dict[str, Any] = {}
    if file.coords is not None:
        found |= {"x": file.coords[:, 0], "y": file.coords[:, 1]}
    if file.grid is not None:
        found |= {"column": file.grid[:, 0], "row": file.grid[:, 1]}
    if file.label is not None:
        found["label"] = [file.label_names[n] if 0 <= n < len(file.label_names) else None for n in file.label.tolist()]
    for name, values in (("name", file.name), ("group", file.group)):
        if values is not None:
            found[name] = [*values]
    return found


def _anndata(file: FeatureFile, path: Path, picture: Callable[[], Picture | None]) -> None:
    import anndata
    import pandas

    columns, attributes, geometry = _columns(file), dict(file.attributes or {}), file.geometry or {}
    names = [f"{file.slide_id}:{row}" for row in range(len(file))]
    # Strings as objects: those of pandas 3 are refused by anndata, since its releases before 0.11 cannot read them.
    table = pandas.DataFrame(
        {"slide_id": [file.slide_id] * len(file), **columns}, index=pandas.Index(names, dtype=object)
    )
    for name in {"slide_id", "label", "group", "name"}.intersection(table):
        classes = pandas.Index(sorted({value for value in table[name] if isinstance(value, str)}), dtype=object)
        table[name] = pandas.Categorical(table[name], categories=classes)
    variables = pandas.DataFrame(index=pandas.Index([str(n) for n in range(file.features.shape[1])], dtype=object))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = anndata.AnnData(X=file.features.astype(np.float32), obs=table, var=variables)
        sides = peers.sides(geometry)
        if file.coords is not None:
            data.obsm["spatial"] = file.coords + (0.0 if sides is None else sides / 2)
            if sides is not None and geometry.keys() >= _SIZE and (shown := picture()) is not None:
                data.uns["spatial"] = {file.slide_id: _spatial(shown, geometry, float(sides.mean()))}
        kept = ("mpp_level0", "mpp_target", "patch_size_level0", "patch_size")
        data.uns["mpp"] = float(geometry.get("mpp_level0", np.nan))
        metadata: dict[str, Any] = {name: float(geometry[name]) for name in kept if name in geometry}
        if sides is not None:
            metadata[peers.EXACT] = sides
        recorded = [name for name in ("id", "encoder", "encoder_sha256") if name in attributes]
        data.uns["sgcl"] = metadata | {name: str(attributes[name]) for name in recorded}
        data.write_h5ad(path)


def _spatial(picture: Picture, geometry: Mapping[str, Any], side: float) -> dict[str, Any]:
    """Images of a slide and their scale factors (image pixels per level-0 pixel), in the layout of scanpy and squidpy.

    There is one factor for both axes, so the images are resized to the aspect ratio of level 0.

    :param side: of a patch, level-0 pixels; drawn as the diameter of a spot.
    """
    from PIL import Image

    width, height = int(geometry["level0_width"]), int(geometry["level0_height"])
    images, factors = {}, {"spot_diameter_fullres": side, "fiducial_diameter_fullres": side}
    for name, longest in _PICTURES.items():
        factor = min(1.0, longest / max(width, height), max(picture.shape[:2]) / max(width, height))
        size = max(1, round(width * factor)), max(1, round(height * factor))
        images[name] = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
        factors[f"tissue_{name}_scalef"] = factor
    return {"images": images, "scalefactors": factors, "metadata": {}}


def _parquet(file: FeatureFile, path: Path, picture: Callable[[], Picture | None]) -> None:
    import pyarrow
    import pyarrow.parquet

    dim = file.features.shape[1]
    flat = pyarrow.array(file.features.astype(np.float32).ravel())
    columns = {"slide_id": [file.slide_id] * len(file), **_columns(file)}
    table = pyarrow.table({**columns, "features": pyarrow.FixedSizeListArray.from_arrays(flat, dim)})
    kept = ("id", "encoder", "encoder_sha256", "encoder_feed")
    metadata = {name: str((file.attributes or {}).get(name, "")) for name in kept}
    geometry = {name: np.asarray(value).tolist() for name, value in (file.geometry or {}).items()}
    metadata["coords"] = json.dumps(geometry, default=str)
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path)


_Write = Callable[[FeatureFile, Path, Callable[[], Picture | None]], None]
_FORMS: dict[str, tuple[str, str, _Write]] = {
    "pt": ("pt_files", ".pt", _pt),
    "anndata": ("anndata", ".h5ad", _anndata),
    "parquet": ("parquet", ".parquet", _parquet),
}
