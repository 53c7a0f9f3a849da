"""The report: one self-contained HTML file without scripts.

Names come from the user's files: the template escapes all of them, the data block escapes ``<`` as well, and the
Content-Security-Policy of the page allows only its own style sheet (by hash) and ``data:`` images.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from sgcl_cli.artefacts.evaluations import METRIC_NAMES

if TYPE_CHECKING:
    from sgcl_cli.report.drawing import DrawnFigure  # matplotlib comes with it

_SCALES = {"r2": (-1.0, 1.0), "spearman": (-1.0, 1.0), "mae": None}
_TRACK = (6, 114)  # of a viewBox 120 wide


@dataclass(frozen=True)
class Picture:
    """A PNG or JPEG picture with its title and caption, and the same as SVG where it is a figure."""

    title: str
    caption: str
    content: bytes
    svg: bytes = b""

    @classmethod
    def of(cls, title: str, caption: str, drawn: DrawnFigure) -> Picture:
        """A picture of a figure."""
        return cls(title, caption, drawn.png, drawn.svg)

    @property
    def suffix(self) -> str:
        """``jpg`` or ``png``."""
        return "jpg" if self.content.startswith(b"\xff\xd8") else "png"

    @property
    def uri(self) -> str:
        """The picture as a data: URI."""
        kind = {"jpg": "jpeg"}.get(self.suffix, self.suffix)
        return f"data:image/{kind};base64," + base64.b64encode(self.content).decode("ascii")

    def files(self, name: str) -> dict[str, bytes]:
        """The contents of its files by name."""
        drawn = {f"{name}.svg": self.svg} if self.svg else {}
        return {f"{name}.{self.suffix}": self.content, **drawn}


@dataclass(frozen=True)
class Table:
    """A plain table of strings and numbers; numbers are aligned to the right.

    :ivar narrow: the first column may wrap, so that a narrow screen shows the others.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    narrow: bool = False

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers, by their first known cell; a column without any counts as one of numbers."""
        firsts = [next((row[i] for row in self.rows if row[i] is not None), None) for i in range(len(self.columns))]
        return [cell is None or isinstance(cell, int | float) for cell in firsts]


@dataclass(frozen=True)
class Section:
    """A part of the page under one heading.

    :ivar wide: pictures take the whole width instead of standing side by side.
    :ivar folded: only the heading shows until it is clicked; print shows everything.
    :ivar classes: (name, colour as #rrggbb) of the classes in the pictures, for a legend.
    """

    title: str
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    wide: bool = False
    folded: bool = False
    classes: Sequence[tuple[str, str]] = ()

    def __bool__(self) -> bool:
        return bool(self.pictures or self.tables or self.notes)


@dataclass(frozen=True)
class Page:
    """The content of report.html.

    :ivar facts: short phrases under the title, such as "20 slides".
    :ivar inferred: (what, value, why) of each setting that was inferred from the data.
    :ivar models: for each model its name and its metrics as ``probe.uncertainty.Headline.as_dict`` gives them, with the
        ``spread`` {folds, seeds} of each where known.
    :ivar confidence: coverage of the intervals.
    :ivar folds: number of folds that the headline averages.
    :ivar warnings: warnings of the audit, shown before the numbers.
    :ivar command: the command line that made it.
    :ivar provenance: (name, value) of versions and ids.
    :ivar data: embedded in the page as JSON.
    :ivar lead: sentences under the title that answer its question.
    :ivar scores_of: heading of the table of scores.
    :ivar patients: whether a table has the values of each patient.
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
    sections: Sequence[Section] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    kicker: str = "sgcl evaluate"
    lead: Sequence[str] = ()
    scores_of: str = "Results"
    patients: bool = False

    @property
    def metric_names(self) -> dict[str, str]:
        """Display names of the metrics by key."""
        known = next(iter(self.models.values()), {})
        return {metric: METRIC_NAMES.get(metric, metric) for metric in known}


def render(page: Page) -> str:
    """The page as an HTML string."""
    return (
        environment()
        .get_template("report.html")
        .render(page=page, notes=_notes(page.models), same_interval_note=same_reason(page.models))
    )


def line(metric: str, entry: Mapping[str, Any]) -> dict[str, float] | None:
    """x positions of a value and its interval on the line of a metric: middle, dot, low, high; None without a scale."""
    scale = _SCALES.get(metric, (0.0, 1.0))
    if scale is None or entry["value"] is None:
        return None
    low, high = scale
    start, end = _TRACK

    def place(value: float) -> float:
        return round(start + (end - start) * (min(max(value, low), high) - low) / (high - low), 1)

    found = {"middle": place((low + high) / 2), "dot": place(entry["value"])}
    if entry["low"] is not None:
        found |= {"low": place(entry["low"]), "high": place(entry["high"])}
    return found


def environment() -> jinja2.Environment:
    """The jinja2 environment of all pages: it escapes names and has a filter for hashes of the Content-Security-Policy."""
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
    made.globals["line"] = line
    return made


def _csp_hash(content: str) -> str:
    digest = hashlib.sha256(str(content).encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def _number(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.4g}"
    return str(value)


def _notes(models: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """The reasons for the dashes in the headline table."""
    notes = []
    for name, metrics in models.items():
        for metric, entry in metrics.items():
            if entry["value"] is None:
                notes.append(f"{METRIC_NAMES.get(metric, metric)}, {name}: {entry['reason']}")
    return notes


def same_reason(models: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """The reason why no metric has an interval; "" where one has, or where the reasons differ."""
    reasons = {
        entry["no_interval"] for metrics in models.values() for entry in metrics.values() if entry["value"] is not None
    }
    return str(reasons.pop()) if len(reasons) == 1 else ""
