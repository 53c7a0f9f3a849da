"""The report: one HTML file that needs nothing else, runs no script, and shows every name as text.

Names come from the user's files, so the template escapes all of them, the data block escapes ``<`` as well, and the
page's Content-Security-Policy allows its own style sheet (by hash) and ``data:`` images, nothing more.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

METRIC_NAMES = {
    "auroc": "AUROC",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "accuracy": "Accuracy",
}


@dataclass(frozen=True)
class Picture:
    """A figure with what it shows."""

    title: str
    caption: str
    png: bytes

    @property
    def uri(self) -> str:
        """The PNG as a data: URI."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Table:
    """A plain table; cells are text or numbers, numbers are set to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclass(frozen=True)
class Page:
    """All that the report says.

    :param facts: short phrases under the title, such as "20 slides".
    :param inferred: (what, value, why) of each thing the tool found out by itself.
    :param models: for each model its name and its metrics as ``probe.uncertainty.Headline.as_dict`` gives them.
    :param confidence: coverage of the intervals.
    :param folds: how many folds the headline is the mean of.
    :param warnings: what the audit wants read before the numbers.
    :param command: how to run it again.
    :param provenance: (name, value) of versions and ids.
    :param data: embedded as JSON for machines.
    """

    title: str
    facts: Sequence[str]
    inferred: Sequence[tuple[str, str, str]]
    models: Mapping[str, Mapping[str, Mapping[str, Any]]]
    confidence: float
    folds: int
    warnings: Sequence[str]
    methods: Sequence[str]
    command: str
    provenance: Sequence[tuple[str, str]]
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    data: Mapping[str, Any] = field(default_factory=dict)


def render(page: Page) -> str:
    """The page as HTML text."""
    return (
        environment()
        .get_template("report.html")
        .render(
            page=page,
            metric_names=METRIC_NAMES,
            notes=_notes(page.models),
            same_interval_note=_same_interval_note(page.models),
        )
    )


def environment() -> jinja2.Environment:
    """What every page is rendered in: names are escaped, hashes for its Content-Security-Policy can be had."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False}
    made.filters["csp_hash"] = _csp_hash
    made.filters["number"] = _number
    return made


def _csp_hash(content: str) -> str:
    digest = hashlib.sha256(str(content).encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def _number(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)


def _notes(models: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Reasons behind dashes in the headline table, each once."""
    notes = []
    for name, metrics in models.items():
        for metric, entry in metrics.items():
            if entry["value"] is None:
                notes.append(f"{METRIC_NAMES[metric]}, {name}: {entry['reason']}")
    return notes


def _same_interval_note(models: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Why there are no intervals; the same for all models, which share their rows."""
    reasons = [
        entry["no_interval"] for metrics in models.values() for entry in metrics.values() if entry["value"] is not None
    ]
    return next((reason for reason in reasons if reason), "")
