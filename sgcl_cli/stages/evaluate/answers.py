"""The conclusions of a comparison as sentences, and its differences as a matrix for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sgcl_cli.artefacts.evaluations import METRIC_NAMES
from sgcl_cli.artefacts.results import Matrix
from sgcl_cli.probe.scores.comparison import Difference
from sgcl_cli.probe.scores.intervals import least_p
from sgcl_cli.report.numbers import with_interval

Found = Mapping[str, Sequence[Difference]]


def answers(found: Found, titles: Mapping[str, str], metric: str, alpha: float) -> list[str]:
    """One sentence for each pair of results: with which models one is better by ``metric``, and with which it is undecided.

    :param found: differences by model key.
    :param titles: titles of the models by key.
    :param alpha: p after Holm below which one result is called better.
    """
    of_metric = [
        (titles[key], one) for key, differences in found.items() for one in differences if one.metric == metric
    ]
    pairs = dict.fromkeys((one.first, one.second) for _, one in of_metric)
    return [
        _sentence(METRIC_NAMES[metric], pair, [(m, d) for m, d in of_metric if (d.first, d.second) == pair], alpha)
        for pair in pairs
    ]


def differs(one: Difference, alpha: float) -> bool:
    """Whether the two results differ significantly: p after Holm is below ``alpha``."""
    return one.adjusted is not None and one.adjusted < alpha


def _sentence(metric: str, pair: tuple[str, str], models: Sequence[tuple[str, Difference]], alpha: float) -> str:
    first, second = pair
    kinds: dict[str, list[str]] = {"first": [], "second": [], "open": []}
    unknown: dict[str, list[str]] = {}
    for name, one in models:
        if one.value is None or one.adjusted is None:
            unknown.setdefault(one.reason, []).append(name)
        elif not differs(one, alpha):
            kinds["open"].append(name)
        else:
            kinds["first" if one.value > 0 else "second"].append(name)
    parts = []
    if kinds["first"]:
        parts.append(f"{first} is better than {second} with {_all(kinds['first'], models)}")
    if kinds["second"]:
        parts.append(f"{second} is better than {first} with {_all(kinds['second'], models)}")
    if kinds["open"]:
        names = _any(kinds["open"], models)
        between = "" if parts else f" between {first} and {second}"
        parts.append(f"the difference{between} is not significant with {names}")
    for reason, lacking in unknown.items():
        parts.append(f"the difference has no interval with {_any(lacking, models)} ({reason})")
    return f"By {metric}, {'; '.join(parts)}."


def _any(names: Sequence[str], models: Sequence[object]) -> str:
    """Names as text after a negation; ``any model`` for all of several."""
    return "any model" if 1 < len(names) == len(models) else _all(names, models)


def _all(names: Sequence[str], models: Sequence[object]) -> str:
    """Names as text: ``a``, ``a and b``, ``a, b and c``; ``every model`` for all of several."""
    if 1 < len(names) == len(models):
        return "every model"
    quoted = [f"“{name}”" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def p_text(one: Difference, resamples: int) -> str:
    """p as text; ``< 1/2001`` at the smallest p that 2,000 resamples can give."""
    if one.p is None:
        return "–"
    return f"< 1/{resamples + 1}" if _at_least(one, resamples) else f"{one.p:.2g}"


def holm_text(one: Difference, resamples: int) -> str:
    """p after Holm as text; an upper bound where p itself is one."""
    if one.adjusted is None:
        return "–"
    return f"{'< ' if _at_least(one, resamples) and one.adjusted < 1 else ''}{one.adjusted:.2g}"


def _at_least(one: Difference, resamples: int) -> bool:
    return one.p is not None and one.p <= least_p(resamples) * (1 + 1e-9)


def matrix(found: Found, titles: Mapping[str, str], resamples: int) -> Matrix:
    """Models (and pairs, if there are several) by metrics.

    A number in brackets refers to the note with the reason for a missing interval.
    """
    reasons: dict[str, int] = {}

    def cell(one: Difference) -> str:
        if one.value is None or one.low is None or one.p is None:
            number = reasons.setdefault(one.reason, len(reasons) + 1)
            return f"{'undefined' if one.value is None else f'{one.value:+.3f}'} [{number}]"
        holm = f"Holm p {holm_text(one, resamples)}"
        return with_interval(one.value, one.low, one.high, sign="+", form="{}\n{} to {}") + f"\n{holm}"

    shown = {key: [one for one in differences if one.metric != "accuracy"] for key, differences in found.items()}
    metrics = list(dict.fromkeys(one.metric for differences in shown.values() for one in differences))
    rows = []
    for key, differences in shown.items():
        by_pair: dict[tuple[str, str], dict[str, str]] = {}
        for one in differences:
            by_pair.setdefault((one.first, one.second), {})[one.metric] = cell(one)
        for (first, second), cells in by_pair.items():
            rows.append((f"{titles[key]}\n{first} - {second}", [cells[metric] for metric in metrics]))
    notes = [f"[{number}] no interval: {reason}" for reason, number in reasons.items()]
    return Matrix("first minus second", [METRIC_NAMES[metric] for metric in metrics], rows, notes)
