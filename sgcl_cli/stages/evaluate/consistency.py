"""Checks of the cohort before fitting: names that are one number, several survival times of a patient, equal features."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sgcl_cli.artefacts.spelling import groups_in_quotes, listed, same_numbers
from sgcl_cli.errors import ArtefactError
from sgcl_cli.probe.data.audit import Audit
from sgcl_cli.probe.data.cohort import Cohort

_NAMED = 3
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
            shown = groups_in_quotes(groups, _NAMED)
            audit.warn("spelling", f"{what} that are the same number: {shown}; {_HARM[what]}, spell them alike")
    _audit_times(cohort, audit)
    _check_features(cohort)


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
