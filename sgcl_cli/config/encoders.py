"""Names of encoders in settings: an architecture of this package, a timm model, or a Python function."""

from __future__ import annotations

import difflib
import re

from sgcl_cli.config.base import flag
from sgcl_cli.errors import ConfigError

ARCHITECTURES = ("resnet18", "resnet34", "resnet50", "vit_tiny", "vit_small")
_TRAINABLE = re.compile(r"timm:.+|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def check_architecture(setting: str, name: str) -> None:
    """Check that a setting names an architecture.

    :raises ConfigError: neither one of this package, nor ``timm:NAME``, nor ``package.module:factory``.
    """
    if name in ARCHITECTURES or (_TRAINABLE.fullmatch(name) and not name.startswith("transformers:")):
        return
    near = difflib.get_close_matches(name, ARCHITECTURES, n=1)
    guess = f"did you mean '{near[0]}'? " if near else ""
    raise ConfigError(
        f"{flag(setting)} is '{name}'",
        f"{guess}choose one of: {', '.join(ARCHITECTURES)}, timm:NAME, or PACKAGE.MODULE:FUNCTION",
    )


_LARGEST = 1e6


def colours(setting: str, text: str | None) -> tuple[float, float, float] | None:
    """Three numbers for red, green and blue, ``0.485,0.456,0.406``; None stays None.

    :raises ConfigError: not three numbers, or a standard deviation that is not positive.
    """
    if text is None:
        return None
    try:
        red, green, blue = (float(part) for part in text.split(","))
        if not max(abs(red), abs(green), abs(blue)) <= _LARGEST:  # nor NaN
            raise ValueError("out of range")
    except ValueError as error:
        raise ConfigError(
            f"{flag(setting)} is '{text[:60]}'", "give three numbers, red,green,blue, such as 0.5,0.5,0.5"
        ) from error
    if setting == "std" and not min(red, green, blue) > 0:
        raise ConfigError(f"{flag(setting)} is '{text}'", "standard deviations must be greater than 0")
    return red, green, blue
