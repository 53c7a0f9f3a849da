"""Checks of the cohort before fitting: names that are one number, several survival times of a patient, equal features."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

import numpy as np

from sgcl_cli.artefacts.spelling import in_quotes, listed
from sgcl_cli.errors import ArtefactError
from sgcl_cli.probe.data.audit import Audit
from sgcl_cli.probe.data.cohort import Cohort

_NAMED = 3
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")
_HARM = {
    "classes": "they count as different",
    "patients": "they count as different patients, so the slides of one may be on both sides of a split",
    "sites": "they count as different",
}


def audit_cohort(cohort: Cohort, audit: Audit) -> None:
    """Add warnings about names and times to the audit.

    :raises ArtefactError: the features of all patches are equal.
    """
    names: dict[str, Iterable[str]] = {"classes": cohort.classes}
    if cohort.patients_known:
        names["patients"] = np.unique(cohort.patient_id).tolist()
    if cohort.site is not None:
        names["sites"] = np.unique(cohort.site).tolist()
    for what, given in names.items():
        groups = same_numbers(given)
        if groups:
            shown = "; ".join(in_quotes(group) for group in groups[:_NAMED])
            more = f" and {len(groups) - _NAMED} more" if len(groups) > _NAMED else ""
            audit.warn("spelling", f"{what} that are the same number: {shown}{more}; {_HARM[what]}, spell them alike")
    _audit_times(cohort, audit)
    _check_features(cohort)


def same_numbers(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of different names that are the same number, such as ``1`` and ``1.0``; each sorted."""
    groups: dict[Decimal, set[str]] = {}
    for name in names:
        if _NUMBER.fullmatch(name):
            groups.setdefault(Decimal(name), set()).add(name)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def _audit_times(cohort: Cohort, audit: Audit) -> None:
    """Warn of patients with slides of different survival."""
    if cohort.time is None or cohort.event is None or not cohort.patients_known:
        return
    known: dict[str, set[tuple[float, int]]] = {}
    rows = zip(cohort.patient_id.tolist(), cohort.time.tolist(), cohort.event.tolist(), strict=True)
    for patient, time, event in rows:
        known.setdefault(patient, set()).add((time, event))
    several = [patient for patient, found in known.items() if len(found) > 1]
    if several:
        audit.warn(
            "survival",
            f"{len(several)} patients have slides with different times or events: {listed(several, _NAMED)}; a patient has "
            "one, unless times count from each sample",
        )


def _check_features(cohort: Cohort) -> None:
    """Check that features differ at all.

    :raises ArtefactError: they do not.
    """
    filled = [file for file in cohort.files if len(file)]
    if len(filled) > 1 and all((file.features == filled[0].features[0]).all() for file in filled):
        raise ArtefactError(
            f"the features of all patches in {filled[0].path.parent} are equal",
            "check the encoder, and embed again: nothing can be predicted from them",
        )
