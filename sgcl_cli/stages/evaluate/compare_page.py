"""compare.html: the conclusion, a forest plot of the differences, and a table for each metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sgcl_cli.artefacts.evaluations import METRIC_NAMES, Evaluated
from sgcl_cli.artefacts.results import versions
from sgcl_cli.config import EvaluateConfig
from sgcl_cli.probe.scores.comparison import Difference
from sgcl_cli.report import forest, page
from sgcl_cli.report.forest import ForestRow
from sgcl_cli.report.numbers import with_interval
from sgcl_cli.report.page import Page, Picture, Section, Table
from sgcl_cli.stages.evaluate import answers


@dataclass(frozen=True)
class Compared:
    """A finished comparison.

    :ivar config: the settings.
    :ivar names: of the results, in the order of the command.
    :ivar opened: the results.
    :ivar titles: of the models, by key.
    :ivar found: differences by model key.
    :ivar metric: the metric of the answers.
    :ivar answers: one sentence for each pair of results.
    :ivar warnings: shown at the top.
    """

    config: EvaluateConfig
    names: Sequence[str]
    opened: Sequence[Evaluated]
    titles: Mapping[str, str]
    found: Mapping[str, Sequence[Difference]]
    metric: str
    answers: Sequence[str]
    warnings: Sequence[str]

    def of(self, metric: str) -> list[tuple[str, Difference]]:
        """(title of the model, difference) of a metric, ordered by model, then by pair."""
        return [(self.titles[key], one) for key, many in self.found.items() for one in many if one.metric == metric]

    @property
    def metrics(self) -> list[str]:
        """All metrics, the one of the answers first."""
        every = dict.fromkeys(one.metric for many in self.found.values() for one in many)
        return [self.metric, *(name for name in every if name != self.metric)]


def pictures(compared: Compared) -> dict[str, Picture]:
    """The forest plot, by file name without suffix; empty without a defined difference."""
    rows = [
        ForestRow(_named(compared, model, one), one.value, one.low, one.high, _differs(compared, one))
        for model, one in compared.of(compared.metric)
        if one.value is not None
    ]
    if not rows:
        return {}
    metric = METRIC_NAMES[compared.metric]
    axis = "first minus second"
    if len(compared.names) == 2:
        axis = f"{compared.names[0]} minus {compared.names[1]}"
    caption = (
        f"Differences in {metric}, {axis}, with their {100 * compared.config.confidence:g} % intervals: right of 0 the first is "
        "better. Grey: not significant after Holm’s correction."
    )
    return {"forest": Picture.of("Forest plot", caption, forest.forest(metric, rows, axis))}


def rendered(compared: Compared, content: Mapping[str, Any], drawn: Mapping[str, Picture]) -> str:
    """The page as HTML.

    :param content: the content of compare.json.
    :param drawn: figures by name.
    """
    config, counts, names = compared.config, compared.opened[0].result["counts"], compared.names
    first, *others = compared.metrics
    return page.render(
        Page(
            title=f"Is {names[0]} better than {names[1]}?"
            if len(names) == 2
            else f"Which is better: {', '.join(names)}?",
            lead=compared.answers,
            facts=[
                f"{len(names)} results",
                f"{counts['slides']} slides",
                f"{counts['patients']} patients",
                f"{counts['folds']} folds",
            ],
            inferred=[],
            models={},
            confidence=config.confidence,
            folds=counts["folds"],
            warnings=compared.warnings,
            methods=[_methods(config)],
            command=config.command_line(),
            provenance=[
                *((name, one.id) for name, one in zip(names, compared.opened, strict=True)),
                ("Splits", f"{compared.opened[0].splits_id}, equal in all"),
                ("Versions", ", ".join(f"{name} {version}" for name, version in versions().items())),
            ],
            sections=[
                Section(METRIC_NAMES[first], list(drawn.values()), [_table(compared, first)], wide=True),
                Section("Other metrics", tables=[_table(compared, metric) for metric in others]),
            ],
            data=content,
            kicker="sgcl evaluate --compare",
        )
    )


def _named(compared: Compared, model: str, one: Difference) -> str:
    """The title of the model, with the pair if there are several."""
    return model if len(compared.names) == 2 else f"{model}: {one.first} - {one.second}"


def _differs(compared: Compared, one: Difference) -> bool:
    return answers.differs(one, 1 - compared.config.confidence)


def _table(compared: Compared, metric: str) -> Table:
    """Difference with its interval, p and p after Holm of every model; narrow enough for a phone."""
    resamples = compared.config.bootstrap
    rows = [
        [
            _named(compared, model, one),
            _difference(one),
            answers.p_text(one, resamples),
            answers.holm_text(one, resamples),
        ]
        for model, one in compared.of(metric)
    ]
    which = "first minus second" if len(compared.names) > 2 else f"{compared.names[0]} minus {compared.names[1]}"
    note = f"{METRIC_NAMES[metric]}, {which}."
    if metric == "mae":
        note += " Less is better."
    return Table(METRIC_NAMES[metric], ["Model", "Difference", "p", "p after Holm"], rows, note, narrow=True)


def _difference(one: Difference) -> str:
    if one.value is None:
        return f"undefined: {one.reason}"
    if one.low is None:
        return f"{one.value:+.3f}, no interval: {one.reason}"
    return with_interval(one.value, one.low, one.high, sign="+")


def _methods(config: EvaluateConfig) -> str:
    return (
        "All results predicted the same rows in the same folds. Patients are resampled within each fold, or once for all "
        f"repetitions that test a patient, stratified, {config.bootstrap} times: of n patients n - 1 are drawn and "
        "weighted by n / (n - 1) (Rao and Wu, 1988). All results are scored on the same resampled patients, so the difficulty "
        f"of a patient cancels out. The interval ({100 * config.confidence:g} %) and the two-sided p of a difference are from "
        "Student’s t distribution with Satterthwaite’s degrees of freedom; p is at least 1 / (1 + resamples). Holm’s correction "
        "is over all pairs and models of a metric, not over metrics. A result is called better if p after Holm is below "
        f"{1 - config.confidence:.2g}. Intervals are conditional on the fitted models."
    )
