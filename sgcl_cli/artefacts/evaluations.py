"""Reader of finished evaluations, the folders written by ``sgcl evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgcl_cli.artefacts import reading, store
from sgcl_cli.artefacts.results import read_run
from sgcl_cli.errors import ArtefactError

BASELINE, PATCH_COUNT = "majority", "patch-count"  # models that do not use the features
METRIC_NAMES = {
    "auroc": "AUROC",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "accuracy": "Accuracy",
    "c_index": "C-index",
    "r2": "R²",
    "mae": "Mean absolute error",
    "spearman": "Spearman correlation",
}
_RESULT = {
    **dict.fromkeys(("task", "level"), reading.TEXT),
    **dict.fromkeys(("models", "counts"), reading.MAPPING),
    "classes": reading.TEXTS,
}
_SPLIT_COLUMNS = ("slide_id", "patient_id", "fold", "split")
_PREDICTION_COLUMNS = ("slide_id", "patient_id", "fold", "model")


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation.

    :ivar folder: its output folder.
    :ivar id: its artefact id.
    :ivar result: content of metrics.json.
    :ivar predictions: rows of predictions.csv, of all models.
    :ivar splits: rows of splits.csv, sorted.
    """

    folder: Path
    id: str
    result: Mapping[str, Any]
    predictions: Sequence[Mapping[str, str]]
    splits: Sequence[Mapping[str, str]]

    @property
    def warnings(self) -> list[str]:
        """Warnings of its audit.

        :raises ArtefactError: audit.json has an unexpected content.
        """
        path = self.folder / "audit.json"
        with reading.understood(path, "evaluate again"):
            findings = store.read_json(path).get("findings", []) if path.is_file() else []
            return [str(one["message"]) for one in findings if one.get("level") == "warning"]

    @property
    def splits_id(self) -> str:
        """Hash of the splits, independent of the order of the rows."""
        return store.artefact_id("splits", {}, ["\t".join(row[name] for name in _SPLIT_COLUMNS) for row in self.splits])

    @classmethod
    def open(cls, folder: str | Path) -> Evaluated:
        """Read the output folder of a finished ``sgcl evaluate``.

        :raises ArtefactError: no such folder, output of another stage, or an unfinished evaluation.
        """
        folder = Path(folder)
        if not (folder / "run.json").is_file():
            raise ArtefactError(
                f"{folder} holds no finished evaluation", "give folders that sgcl evaluate wrote with --out"
            )
        run = read_run(folder)
        if run.get("stage") != "evaluate" or not (folder / "metrics.json").is_file():
            raise ArtefactError(
                f"{folder} holds the output of sgcl {run.get('stage')}, not predictions of slides or patches",
                "give folders that sgcl evaluate wrote with --out",
            )
        splits, predictions = (store.read_csv(folder / name) for name in ("splits.csv", "predictions.csv"))
        for name, rows, columns in (
            ("splits.csv", splits, _SPLIT_COLUMNS),
            ("predictions.csv", predictions, _PREDICTION_COLUMNS),
        ):
            if not rows or not set(columns) <= set(rows[0]):
                raise ArtefactError(f"{folder / name} lacks rows, or one of {', '.join(columns)}", "evaluate again")
        ordered = sorted(splits, key=lambda row: [row[name] for name in _SPLIT_COLUMNS])
        path = folder / "metrics.json"
        result = reading.typed(
            store.read_json(path), _RESULT, str(path), "evaluate again", ("task", "models", "counts")
        )
        return cls(folder, str(run.get("id", "")), result, predictions, ordered)
