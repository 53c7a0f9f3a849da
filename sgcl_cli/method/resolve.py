"""Settings of the objective, from its options and the number of patches."""

from __future__ import annotations

import math
from dataclasses import fields

from sgcl_cli.config.objective import ObjectiveOptions
from sgcl_cli.errors import TrainingError
from sgcl_cli.method.bases import BASES, Base
from sgcl_cli.method.settings import Settings

_MOST_UNIFORM = 65_536
_MOST_NEIGHBOURS = 4_096
_MOST_CLUSTERS = 1_000
_MOST_QUEUED = 65_536
_NEIGHBOUR_SHARE = 0.006
_PATCHES_PER_CLUSTER = 64
_SEMI_HARD_FROM = 20_000
_HARD_SHARE = 0.2
_LONGEST_RAMP = 10.0
_RAMP_SHARE = 0.2


def resolve(options: ObjectiveOptions, n: int, epochs: int, batch: int) -> tuple[Settings, dict[str, str]]:
    """Give every option that is not set its value for n patches.

    :param n: patches in the corpus, at least 2.
    :param epochs: of the whole training; they bound the default ramp.
    :param batch: anchors per step over all ranks; the queue is a multiple of it.
    :returns: the settings, and a message for each option whose value had to be clamped.
    :raises TrainingError: there are too few patches.
    """
    if n < 2:
        raise TrainingError(f"the corpus has {n} patches; contrastive learning needs at least 2", "give more slides")
    clamped: dict[str, str] = {}

    def count(name: str, default: int, most: int) -> int:
        value: int | None = getattr(options, name)
        if value is None:
            return min(default, most)
        if value > most:
            clamped[name] = f"{name} = {value:,} is more than {n:,} patches allow: {most:,} is used"
        return min(value, most)

    neighbours = count("neighbours", min(_MOST_NEIGHBOURS, math.ceil(_NEIGHBOUR_SHARE * n - 1e-9)), n - 1)
    easy = options.negative_law == "auto" and n < _SEMI_HARD_FROM
    chosen = "uniform" if easy else "beta"
    queue = count("queue", _MOST_QUEUED, max(n // 2 // batch, 1) * batch)
    whole = max(queue // batch, 1) * batch
    if options.queue is not None and whole != queue:
        clamped["queue"] = f"queue = {queue:,} is no multiple of the batch of {batch:,}: {whole:,} is used"
    resolved = {
        "uniform_negatives": count("uniform_negatives", _MOST_UNIFORM, n - 1),
        "neighbours": neighbours,
        "clusters": count("clusters", min(_MOST_CLUSTERS, max(10, n // _PATCHES_PER_CLUSTER)), n),
        "negatives": _given(options.negatives, neighbours),
        "negative_law": chosen if options.negative_law == "auto" else options.negative_law,
        "top_share": _given(options.top_share, 1.0 if easy else _HARD_SHARE),
        "queue": whole,
        "ramp_epochs": _given(options.ramp_epochs, min(_LONGEST_RAMP, _RAMP_SHARE * epochs)),
        "bank_momentum": _given(options.bank_momentum, BASES.get(options.base, Base).bank_momentum),
    }
    given = {spec.name: getattr(options, spec.name) for spec in fields(Settings)}
    return Settings(**{**given, **resolved}), clamped


def _given(value: float | None, default: float) -> float:
    return default if value is None else value
