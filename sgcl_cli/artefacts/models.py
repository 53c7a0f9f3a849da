"""Fitted models, stored by ``sgcl evaluate`` and applied by ``sgcl predict``: models/card.json and models/<key>.safetensors.

The card describes the task and, for each model, its kind by fold and seed. A .safetensors file has the arrays of all fits of a
model, named FOLD/SEED/NAME with the fold's position in the card, and ``reference``, rows of features that fits share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from sgcl_cli.artefacts import model_cards, reading, store
from sgcl_cli.artefacts.model_cards import FORMAT
from sgcl_cli.errors import ArtefactError

FOLDER = "models"
REFERENCE, REFERENCE_ROWS = "reference", "reference_rows"
_REMEDY = "evaluate again with --overwrite"


@dataclass(frozen=True)
class Fitted:
    """One fitted model.

    :ivar kind: how it predicts, see ``probe.fitted``.
    :ivar arrays: its parameters.
    :ivar settings: JSON values.
    """

    kind: str
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def with_reference(self, features: NDArray[np.floating]) -> Fitted:
        """The same model with the reference rows instead of their indices into ``features`` (N, D).

        :raises ValueError: more indices than rows.
        """
        if REFERENCE_ROWS not in self.arrays:
            return self
        arrays, rows = dict(self.arrays), self.arrays[REFERENCE_ROWS]
        del arrays[REFERENCE_ROWS]
        if len(rows) > len(features):
            raise ValueError(f"{len(rows)} reference rows among {len(features)}")
        return Fitted(self.kind, {**arrays, REFERENCE: features[rows]}, self.settings)


@dataclass(frozen=True)
class Kept:
    """All fits of one model.

    :ivar name: title in reports.
    :ivar view: its input from a slide: ``patch``, ``mean`` of the patches, ``count`` of them, or ``bags`` for all patches.
    :ivar folds: fold -> fitted models, one per seed.
    :ivar reference: features (N, D) that reference rows index; None without reference rows.
    """

    name: str
    view: str
    folds: Mapping[str, Sequence[Fitted]]
    reference: NDArray[np.floating] | None = None


def write(folder: Path, card: Mapping[str, Any], models: Mapping[str, Kept]) -> list[str]:
    """Write the models and then the card; returns the names of the files relative to the result folder."""
    entries, names = {}, []
    for key, kept in models.items():
        arrays: dict[str, NDArray[Any]] = {}
        for place, fits in enumerate(kept.folds.values()):
            for seed, one in enumerate(fits):
                arrays |= {f"{place}/{seed}/{name}": np.ascontiguousarray(array) for name, array in one.arrays.items()}
        if kept.reference is not None and any(name.endswith(f"/{REFERENCE_ROWS}") for name in arrays):
            arrays[REFERENCE] = np.ascontiguousarray(kept.reference)
        store.write_bytes(folder / f"{key}.safetensors", safetensors.numpy.save(arrays))
        names.append(f"{FOLDER}/{key}.safetensors")
        folds = {
            fold: [{"kind": one.kind, "settings": dict(one.settings)} for one in fits]
            for fold, fits in kept.folds.items()
        }
        entries[key] = {"name": kept.name, "view": kept.view, "folds": folds}
    store.write_json(folder / "card.json", {"format": FORMAT, **card, "models": entries})
    return [*names, f"{FOLDER}/card.json"]


def read_card(result: Path) -> dict[str, Any]:
    """Read the card of the models in a result folder.

    :raises ArtefactError: the evaluation is unfinished or has no models, or the card is invalid.
    """
    path = result / FOLDER / "card.json"
    if not (result / "run.json").is_file():
        raise ArtefactError(
            f"{result} holds no finished evaluation", "give a folder that sgcl evaluate wrote with --out"
        )
    if not path.is_file():
        raise ArtefactError(
            f"{result} has no fitted models", "evaluate again with this version (--compare and --dense store none)"
        )
    return model_cards.checked(store.read_json(path), path)


def read(result: Path, card: Mapping[str, Any], key: str) -> Kept:
    """Read all fits of a model of the card, with their reference rows.

    :raises ArtefactError: its file is missing or damaged, or has values that are not finite numbers.
    """
    path, entry = result / FOLDER / f"{key}.safetensors", card["models"][key]
    arrays = _arrays(path)
    reference = arrays.pop(REFERENCE, None)
    own: dict[tuple[str, str], dict[str, NDArray[Any]]] = {}
    for full, array in arrays.items():
        at, _, rest = full.partition("/")
        of, _, name = rest.partition("/")
        own.setdefault((at, of), {})[name] = array
    folds: dict[str, list[Fitted]] = {}
    with reading.understood(path, _REMEDY):
        for place, (fold, fits) in enumerate(entry["folds"].items()):
            folds[fold] = []
            for seed, one in enumerate(fits):
                fitted = Fitted(one["kind"], own.get((str(place), str(seed)), {}), one["settings"])
                folds[fold].append(fitted if reference is None else fitted.with_reference(reference))
    return Kept(entry["name"], entry["view"], folds)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        arrays: dict[str, NDArray[Any]] = safetensors.numpy.load(reading.plain(path).read_bytes())
    except OSError as error:
        raise reading.unreadable(path, error, "a file of models", _REMEDY) from error
    except (SafetensorError, *reading.MISTAKEN) as error:
        raise ArtefactError(f"{path} is damaged: {str(error)[: reading.LONGEST_REASON]}", _REMEDY) from error
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
            raise ArtefactError(f"{path} is damaged: '{name}' is not of finite numbers", _REMEDY)
    return arrays
