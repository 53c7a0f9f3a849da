"""Findings about a cohort before anything is fitted, and the ledger of its slides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sgcl_cli.errors import LabelError

_FIRST = 3


@dataclass(frozen=True)
class Finding:
    """One finding. Errors stop the evaluation; warnings are shown in the report."""

    level: Literal["error", "warning"]
    code: str
    message: str
    hint: str = ""


@dataclass
class Audit:
    """Findings in the order of the checks, and the numbers of slides labelled, embedded, matched and left out."""

    findings: list[Finding] = field(default_factory=list)
    ledger: dict[str, Any] = field(default_factory=dict)

    def error(self, code: str, message: str, hint: str = "") -> None:
        """Add an error: a finding that makes the evaluation invalid."""
        self.findings.append(Finding("error", code, message, hint))

    def warn(self, code: str, message: str) -> None:
        """Add a warning: a finding that readers of the report must know."""
        self.findings.append(Finding("warning", code, message))

    def stop_on_errors(self) -> None:
        """Raise the first error.

        :raises LabelError: there are errors; the message counts the others, which are in audit.json.
        """
        errors = [finding for finding in self.findings if finding.level == "error"]
        if errors:
            more = f" ({len(errors) - 1} more in audit.json)" if len(errors) > 1 else ""
            raise LabelError(errors[0].message + more, errors[0].hint)

    @property
    def warnings(self) -> list[str]:
        """Messages of the warnings."""
        return [finding.message for finding in self.findings if finding.level == "warning"]

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "format": "sgcl.audit/1",
            "passed": all(finding.level != "error" for finding in self.findings),
            "findings": [asdict(finding) for finding in self.findings],
            "ledger": self.ledger,
        }


def ledger_rows(ledger: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """The ledger as rows (entry, count, first names)."""
    rows = []
    for name, value in ledger.items():
        many = value if isinstance(value, list) else []
        first = ", ".join(map(str, many[:_FIRST])) + (" …" if len(many) > _FIRST else "")
        rows.append((name.replace("_", " "), len(many) if isinstance(value, list) else int(value), first))
    return rows
