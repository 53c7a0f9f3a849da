"""Options that the method's tests start from."""

from __future__ import annotations

from typing import Any

from sgcl_cli.config import ObjectiveOptions


def options(**changes: Any) -> ObjectiveOptions:
    """The defaults, with the published law of negatives at any number of patches, and some changes."""
    return ObjectiveOptions(**{"negative_law": "beta", **changes})
