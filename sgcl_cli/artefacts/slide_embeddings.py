"""Slide embeddings, one vector a slide: slides_<pooling>.h5ad (AnnData), .csv, and .json, which says what they are.

The .h5ad file follows the specification of on-disk AnnData, so that it needs no further library to be written
(https://anndata.readthedocs.io, "The on-disk format").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sgcl_cli.artefacts import hdf5, store
from sgcl_cli.errors import ArtefactError

FORMAT = "sgcl.slide_embeddings/1"
_VERSIONS = {"anndata": "0.1.0", "dict": "0.1.0"}  # of encodings; of all others 0.2.0
_GROUPS = ("layers", "obsm", "obsp", "varm", "varp")


@dataclass(frozen=True)
class SlideEmbeddings:
    """One vector a slide: S slides, D dimensions.

    :ivar values: float32 (S, D).
    :ivar slides: columns by name, one value a slide; ``slide_id`` and ``n_patches`` at least.
    :ivar dimensions: columns by name, one value a dimension; ``name`` at least.
    :ivar facts: what the vectors are, JSON values.
    """

    values: NDArray[np.float32]
    slides: Mapping[str, Sequence[Any] | NDArray[Any]]
    dimensions: Mapping[str, Sequence[Any] | NDArray[Any]]
    facts: Mapping[str, Any]


def paths(folder: Path, pooling: str) -> tuple[Path, Path, Path]:
    """The .h5ad, .csv and .json file of a pooling."""
    first, second, third = (folder / f"slides_{pooling}{suffix}" for suffix in (".h5ad", ".csv", ".json"))
    return first, second, third


def is_current(folder: Path, pooling: str, identity: str) -> bool:
    """Whether all files of a pooling are those of an identity; anything else can be overwritten."""
    *files, record = paths(folder, pooling)
    try:
        content = store.read_json(record)
        return isinstance(content, dict) and content["id"] == identity and content["bytes"] == _sizes(files)
    except (ArtefactError, KeyError, OSError):
        return False


def write(folder: Path, pooling: str, identity: str, embeddings: SlideEmbeddings) -> None:
    """Write the three files, the .json last; each is whole or absent.

    :raises ArtefactError: the disk cannot be written to.
    """
    data, table, record = paths(folder, pooling)
    facts = {"format": FORMAT, "id": identity, "pooling": pooling, **embeddings.facts}
    with store.writing(record):
        record.unlink(missing_ok=True)
    with store.atomic(data) as temporary, hdf5.created(temporary) as file:
        _fill(file, embeddings, facts)
    names = [str(name) for name in embeddings.dimensions["name"]]
    slides = zip(embeddings.slides["slide_id"], embeddings.slides["n_patches"], embeddings.values, strict=True)
    rows = (
        {"slide_id": slide_id, "n_patches": count, **dict(zip(names, map(str, values), strict=True))}
        for slide_id, count, values in slides
    )
    store.write_csv(table, ("slide_id", "n_patches", *names), rows)
    store.write_json(record, {**facts, "bytes": _sizes([data, table])})


def _sizes(files: Sequence[Path]) -> list[int]:
    return [file.stat().st_size for file in files]


def _fill(file: h5py.File, embeddings: SlideEmbeddings, facts: Mapping[str, Any]) -> None:
    _encoded(file, "anndata")
    for name in _GROUPS:
        _encoded(file.create_group(name), "dict")
    _array(file, "X", embeddings.values)
    _table(file.create_group("obs"), embeddings.slides, "slide_id")
    _table(file.create_group("var"), embeddings.dimensions, "name")
    unstructured = file.create_group("uns")
    _encoded(unstructured, "dict")
    _mapping(unstructured.create_group("sgcl"), facts)


def _encoded(item: h5py.Group | h5py.Dataset, kind: str) -> None:
    item.attrs["encoding-type"], item.attrs["encoding-version"] = kind, _VERSIONS.get(kind, "0.2.0")


def _array(group: h5py.Group, name: str, values: Sequence[Any] | NDArray[Any]) -> None:
    """Numbers, or strings where the first value is one."""
    if isinstance(values, np.ndarray) or not any(isinstance(value, str) for value in values):
        _encoded(group.create_dataset(name, data=np.asarray(values)), "array")
    else:
        text = [_text(value) for value in values]
        _encoded(group.create_dataset(name, data=text, dtype=h5py.string_dtype()), "string-array")


def _table(group: h5py.Group, columns: Mapping[str, Sequence[Any] | NDArray[Any]], index: str) -> None:
    _encoded(group, "dataframe")
    group.attrs["_index"] = index
    order = [name for name in columns if name != index]
    group.attrs.create("column-order", order, dtype=h5py.string_dtype(), shape=(len(order),))
    for name, values in columns.items():
        _array(group, name, values)


def _text(value: str) -> str:
    """A string as HDF5 can hold it."""
    return store.escaped(value).replace("\0", "\\x00")


def _mapping(group: h5py.Group, facts: Mapping[str, Any]) -> None:
    """Strings, numbers, lists of strings, and mappings of these; None is left out."""
    _encoded(group, "dict")
    for name, value in facts.items():
        if isinstance(value, Mapping):
            _mapping(group.create_group(name), value)
        elif isinstance(value, list):
            _array(group, name, [str(each) for each in value] or np.zeros(0))
        elif isinstance(value, str):
            _encoded(group.create_dataset(name, data=_text(value), dtype=h5py.string_dtype()), "string")
        elif value is not None:
            _encoded(group.create_dataset(name, data=value), "numeric-scalar")
