"""Names with several spellings in a cohort, each of which counts as a separate class, patient or site."""

from __future__ import annotations

from collections.abc import Iterable

from sgcl_cli.artefacts.spelling import in_quotes, lookalikes
from sgcl_cli.probe.data.audit import Audit

_SHOWN = 3
_HARM = {
    "classes": "they count as different classes",
    "patients": "they count as different patients, who may be on both sides of a split",
    "sites": "they count as different sites",
}


def audit_spelling(what: str, names: Iterable[str], audit: Audit) -> None:
    """Warn about names that differ only in case or blanks, with all their spellings.

    :param what: classes, patients or sites.
    """
    groups = lookalikes(names)
    if groups:
        more = f"; and {len(groups) - _SHOWN} more" if len(groups) > _SHOWN else ""
        shown = "; ".join(in_quotes(group) for group in groups[:_SHOWN])
        audit.warn(
            "spelling", f"{what} that differ only in case or blanks: {shown}{more}; {_HARM[what]}, spell them alike"
        )
