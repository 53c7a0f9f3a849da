"""Fitted models that ``sgcl evaluate`` keeps and ``sgcl predict`` applies: models/card.json and models/<key>.safetensors.

The card says what the models are for, and of each which kind it is, fold by fold and seed by seed. A .safetensors file has
the arrays of all, named FOLD/SEED/NAME with the fold's place in the card, and ``reference`` where they share rows of features.
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

from sgcl_cli.artefacts import reading, store
from sgcl_cli.errors import ArtefactError

FORMAT = "sgcl.models/1"
FOLDER = "models"
_AGAIN = "evaluate again with this version"
_CARD = {
    **dict.fromkeys(("result", "task"), reading.TEXT),
    "level": reading.one_of("slide", "patch"),
    "classes": reading.TEXTS,
    "confidence": reading.number(0, 1),
    **dict.fromkeys(("features", "folds", "scores", "models"), reading.MAPPING),
}
REFERENCE, REFERENCE_ROWS = "reference", "reference_rows"


@dataclass(frozen=True)
class Fitted:
    """One fitted model.

    :ivar kind: how it predicts, see ``probe.fitted``. :ivar arrays: numbers that it predicts with. :ivar settings: JSON values.
    """

    kind: str
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def with_reference(self, features: NDArray[np.floating]) -> Fitted:
        """The same with the reference rows themselves in place of their numbers among ``features`` (N, D)."""
        if REFERENCE_ROWS not in self.arrays:
            return self
        arrays = {name: array for name, array in self.arrays.items() if name != REFERENCE_ROWS}
        return Fitted(self.kind, {**arrays, REFERENCE: features[self.arrays[REFERENCE_ROWS]]}, self.settings)


@dataclass(frozen=True)
class Kept:
    """The fits of one model.

    :ivar view: what it takes of a slide: ``patch``, ``mean`` of its patches, ``count`` of them, or ``bags`` for all.
    :ivar folds: by fold the fitted models, one a seed.
    :ivar reference: features (N, D) that reference rows are numbers among; None where no model has any.
    """

    name: str
    view: str
    folds: Mapping[str, Sequence[Fitted]]
    reference: NDArray[np.floating] | None = None


def write(folder: Path, card: Mapping[str, Any], models: Mapping[str, Kept]) -> list[str]:
    """Write models and then the card; returns the files' names relative to the result."""
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
    """The card of the models in a result folder.

    :raises ArtefactError: the evaluation is not finished, or keeps no models, or the card is not one.
    """
    path = result / FOLDER / "card.json"
    if not (result / "run.json").is_file():
        raise ArtefactError(
            f"{result} holds no finished evaluation", "give a folder that sgcl evaluate wrote with --out"
        )
    if not path.is_file():
        raise ArtefactError(
            f"{result} keeps no fitted models", "evaluate again with this version (--compare and --dense keep none)"
        )
    card = store.read_json(path)
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise ArtefactError(f"{path} is not a card of {FORMAT}", _AGAIN)
    card = reading.typed(card, _CARD, str(path), _AGAIN, tuple(_CARD))
    with reading.understood(path, _AGAIN):
        _check(card)
    return card


def _check(card: Mapping[str, Any]) -> None:
    """Whether every model has its fits in every fold, and every fold says what it was fitted on.

    :raises LookupError, TypeError, ValueError: it has not.
    """
    if not card["models"] or not card["folds"]:
        raise ValueError("no models")
    int(card["features"]["dim"]), card["attention_model"]
    for name, fold in card["folds"].items():
        for column in ("slides", "identities", "patients"):
            reading.texts(fold[column], f"{column} of fold {name}", _AGAIN)
    for key, entry in card["models"].items():
        str(card["scores"][key]["name"]), dict(card["scores"][key]["metrics"]), str(entry["view"])
        for name in card["folds"]:
            if not [(str(one["kind"]), dict(one["settings"])) for one in entry["folds"][name]]:
                raise ValueError(f"no fit of {key} in fold {name}")


def path_of(result: Path, key: str) -> Path:
    """The file of a model."""
    return result / FOLDER / f"{key}.safetensors"


def read(result: Path, card: Mapping[str, Any], key: str) -> Kept:
    """The fits of a model of the card, with their reference rows.

    :raises ArtefactError: its file is missing or damaged.
    """
    path = path_of(result, key)
    entry = card["models"][key]
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
        reference = arrays.get(REFERENCE)
        folds: dict[str, list[Fitted]] = {}
        for place, (fold, fits) in enumerate(entry["folds"].items()):
            folds[fold] = []
            for seed, one in enumerate(fits):
                start = f"{place}/{seed}/"
                own = {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
                fitted = Fitted(str(one["kind"]), own, one["settings"])
                folds[fold].append(fitted if reference is None else fitted.with_reference(reference))
        return Kept(str(entry["name"]), str(entry["view"]), folds)
    except FileNotFoundError as error:
        raise ArtefactError(f"no such file: {path}", "evaluate again with --overwrite") from error
    except (OSError, SafetensorError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ArtefactError(f"{path} is damaged: {error}", "evaluate again with --overwrite") from error
