"""The check for missing patient ids, without which slides of one patient can be on both sides of a split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sgcl_cli.probe.data.audit import Audit

_TCGA = re.compile(r"(TCGA-\w{2}-\w{4})\b.*", re.IGNORECASE)
_NUMBERED = re.compile(r"(.*\d.*|.+?)[-_. ](?:[a-z]?\d{1,3}|[a-z])", re.IGNORECASE)
_MOST_OF_A_PATIENT = 10
_FEWEST_GROUPS = 2


def alike(slides: Iterable[str]) -> list[list[str]]:
    """Groups of slides that seem to come from one patient by their ids: TCGA barcodes, or ``p12_a`` and ``p12_b``.

    A stem shared by more than 10 slides, or the only shared stem, is taken for the name of a cohort.
    """
    stems: dict[str, list[str]] = {}
    for slide in sorted(slides):
        found = _TCGA.fullmatch(slide) or _NUMBERED.fullmatch(slide)
        if found:
            stems.setdefault(found[1].casefold(), []).append(slide)
    groups = [group for group in stems.values() if 1 < len(group) <= _MOST_OF_A_PATIENT]
    return groups if len(groups) >= _FEWEST_GROUPS else []


def audit_patients(slides: Sequence[str], known: bool, audit: Audit) -> None:
    """Warn if no patients are given, with examples of ids that look like several slides of one patient."""
    if known:
        return
    groups = alike(slides)
    look = ""
    if groups:
        few = ", ".join(f"'{name}'" for name in groups[0][:3])
        look = f"; ids look like several slides of one patient in {len(groups)} cases, first {few}"
    audit.warn(
        "no_patients",
        "no patient_id is given, so every slide counts as a separate patient: if patients have several slides, these can be "
        f"on both sides of a split, scores are too high and intervals too narrow{look}",
    )
