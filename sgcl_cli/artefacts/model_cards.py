"""Validation of the card of fitted models, models/card.json, before ``sgcl predict`` uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sgcl_cli.artefacts import names, reading
from sgcl_cli.errors import ArtefactError

FORMAT = "sgcl.models/1"
BAGS = "bags"  # kind and view of models of all patches of a slide
CLASS_TASKS = ("binary", "multiclass")
VIEWS = {"slide": ("mean", "count", BAGS), "patch": ("patch",)}  # by level, a model's input from a slide
REMEDY = "evaluate again with this version"

_MOST = 2**16  # classes, units of a layer; neighbours in thousands
_VALUE = reading.number(-1e12, 1e12)
_CARD = {
    **dict.fromkeys(("format", "result", "target", "attention_model"), reading.TEXT),
    "level": reading.one_of(*VIEWS),
    "task": reading.one_of(*CLASS_TASKS, "regression", "survival"),
    "classes": reading.TEXTS,
    "confidence": reading.number(0, 1),
    **dict.fromkeys(("features", "folds", "scores", "models"), reading.MAPPING),
}
_FEATURES = {
    "dim": reading.whole(1, 2**20),
    **dict.fromkeys(("encoder", "encoder_sha256", "encoder_feed"), reading.TEXT),
    "mpp": reading.number(1e-3, 1e3),
}
_FOLD = dict.fromkeys(("slides", "identities", "patients"), reading.TEXTS)
_MODEL = {"name": reading.TEXT, "view": reading.TEXT, "folds": reading.MAPPING}
_FITTED = {"kind": reading.TEXT, "settings": reading.MAPPING}
_SCORES = {"name": reading.TEXT, "metrics": reading.MAPPING}
_SCORE = {
    **dict.fromkeys(("value", "low", "high"), _VALUE),
    **dict.fromkeys(("reason", "no_interval"), reading.TEXT),
    **dict.fromkeys(("spread", "pooled"), reading.MAPPING),
}
_SETTINGS = {
    **dict.fromkeys(("hidden", "outputs"), reading.whole(1, _MOST)),
    "k": reading.whole(1, 1000 * _MOST),
    "temperature": reading.number(1e-6, 1e6),
    "dropout": reading.number(0, 1),
    "model": reading.TEXT,
    "target": reading.MAPPING,
}


def checked(content: Any, path: Path) -> dict[str, Any]:
    """Check all entries of a card; absent scores are set to None.

    :raises ArtefactError: not a card, or an entry is missing or invalid.
    """
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ArtefactError(f"{path} is not a card of {FORMAT}", REMEDY)
    needed = ("result", "level", "task", "target", "classes", "confidence", "features", "folds", "scores", "models")
    card = reading.typed(content, _CARD, str(path), REMEDY, needed)
    _check_classes(card, path)
    _table(card["features"], _FEATURES, f"{path}: features", ("dim",))
    for optional in ("encoder", "encoder_sha256", "encoder_feed", "mpp"):
        card["features"].setdefault(optional)
    for fold, entry in card["folds"].items():
        _table(entry, _FOLD, f"{path}: fold {names.shown(fold)}", tuple(_FOLD))
    if not card["folds"] or not card["models"]:
        raise ArtefactError(f"{path} names no {'models' if card['folds'] else 'folds'}", REMEDY)
    for key, entry in card["models"].items():
        _check_model(key, entry, card, path)
    _check_scores(card, path)
    return card


def _table(value: Any, kinds: dict[str, reading.Expected], where: str, needed: tuple[str, ...]) -> dict[str, Any]:
    return reading.typed(value, kinds, where, REMEDY, needed)


def _check_classes(card: dict[str, Any], path: Path) -> None:
    classes, wanted = card["classes"], card["task"] in CLASS_TASKS
    reading.texts(classes, f"{path}: classes", REMEDY)
    if len(set(classes)) < len(classes) or len(classes) > _MOST or (len(classes) > 1) != wanted:
        raise ArtefactError(f"{path}: {len(classes)} classes, or equal ones, for a task of {card['task']}", REMEDY)


def _check_model(key: str, entry: Any, card: dict[str, Any], path: Path) -> None:
    where = f"{path}: model {names.shown(key)}"
    if names.fault(key):
        raise ArtefactError(f"{where}: its name {names.fault(key)}", REMEDY)
    _table(entry, _MODEL, where, tuple(_MODEL))
    if entry["view"] not in VIEWS[card["level"]]:
        raise ArtefactError(f"{where}: its view is {names.shown(entry['view'])}, of a {card['level']}", REMEDY)
    if list(entry["folds"]) != list(card["folds"]):
        raise ArtefactError(f"{where} has other folds than the card", REMEDY)
    kinds = set()
    for fits in entry["folds"].values():
        if not isinstance(fits, list) or not fits:
            raise ArtefactError(f"{where} has a fold without fitted models", REMEDY)
        for one in fits:
            _table(one, _FITTED, where, tuple(_FITTED))
            _check_settings(one["settings"], max(1, len(card["classes"])), where)
            kinds.add((one["kind"], one["settings"].get("model")))
    if len(kinds) > 1 or {kind == BAGS for kind, _ in kinds} != {entry["view"] == BAGS}:
        raise ArtefactError(f"{where}: its folds are of several kinds, or of one that its view does not allow", REMEDY)


def _check_settings(settings: dict[str, Any], outputs: int, where: str) -> None:
    _table(settings, _SETTINGS, where, ())
    classes = settings.get("classes")
    if classes is not None and not isinstance(classes, bool) and not reading.whole(outputs, outputs).holds(classes):
        raise ArtefactError(f"{where}: classes is {names.shown(classes)}, not {outputs}", REMEDY)
    for value in settings.get("target", {}).values():
        if not _VALUE.holds(value):
            raise ArtefactError(f"{where}: its target is not of numbers", REMEDY)


def _check_scores(card: dict[str, Any], path: Path) -> None:
    """Check the scores that the page of predictions shows: of each model, all for the same metrics."""
    metrics: list[str] | None = None
    for key in card["models"]:
        where = f"{path}: scores of {names.shown(key)}"
        scores = _table(card["scores"].get(key), _SCORES, where, tuple(_SCORES))
        metrics = list(scores["metrics"]) if metrics is None else metrics
        if list(scores["metrics"]) != metrics:
            raise ArtefactError(f"{where} are of other metrics than those of the first model", REMEDY)
        for metric, score in scores["metrics"].items():
            of = f"{where}, {names.shown(metric)}"
            _table(score, _SCORE, of, ())
            for name in _SCORE:
                score.setdefault(name, "" if name in ("reason", "no_interval") else None)
            if (score["low"] is None) != (score["high"] is None):
                raise ArtefactError(f"{of}: an interval has one end", REMEDY)
            for part in ("spread", "pooled"):
                score[part] = {name: value for name, value in (score[part] or {}).items() if _VALUE.holds(value)}
