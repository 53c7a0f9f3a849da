"""Models that ``sgcl evaluate`` keeps, applied by other commands: compatibility of features, and slides seen in fitting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sgcl_cli.artefacts import reading
from sgcl_cli.artefacts.slide_ids import plain_id
from sgcl_cli.config import differences
from sgcl_cli.errors import ConfigError

_RESOLUTION = 0.1  # relative difference


def check_same_encoder(
    card: Mapping[str, Any], found: Mapping[str, Any], features: str, *, allow_mpp: bool
) -> list[str]:
    """Compare features with those that models were fitted on; returns warnings.

    :param card: of the models. :param found: dim, encoder, encoder_sha256, encoder_feed and mpp of the features, each None where
        unknown. :param features: their name in messages.
    :raises ConfigError: another width, encoder or way of embedding; another resolution, unless ``allow_mpp``.
    """
    known = card["features"]
    if found["dim"] != known["dim"]:
        raise ConfigError(
            f"{features} has features of {found['dim']} dimensions, the models were fitted on {known['dim']}",
            f"embed with the encoder of the evaluation ({known['encoder'] or 'not recorded'})",
        )
    if (
        None not in (found["encoder_sha256"], known["encoder_sha256"])
        and found["encoder_sha256"] != known["encoder_sha256"]
    ):
        raise ConfigError(
            f"{features} is from another encoder ({found['encoder']}), the models were fitted on {known['encoder']}",
            "embed with the encoder of the evaluation; encoders of one name may have different weights",
        )
    if None not in (found["encoder_feed"], known["encoder_feed"]) and found["encoder_feed"] != known["encoder_feed"]:
        changed = differences(*(_feed(one["encoder_feed"]) for one in (known, found)))
        raise ConfigError(
            f"{features} was embedded with other settings: {'; '.join(changed)}",
            "tile (--mpp, --patch-size) and embed with the settings of the evaluation",
        )
    unknown = [name for name in ("encoder_sha256", "mpp") if found[name] is None or known[name] is None]
    names = {"encoder_sha256": "the encoder", "mpp": "the resolution"}
    warnings = [f"{names[name]} cannot be compared: one side does not record it" for name in unknown]
    if "mpp" not in unknown and abs(found["mpp"] / known["mpp"] - 1) > _RESOLUTION:
        message = f"the features are at {found['mpp']:g} µm/px, the models were fitted at {known['mpp']:g} µm/px"
        if not allow_mpp:
            raise ConfigError(message, f"tile with --mpp {known['mpp']:g}, or give --allow-mpp")
        warnings.append(message)
    return warnings


def is_fitted_on(fold: Mapping[str, Any], slide_id: str, identity: str) -> bool:
    """Whether the models of a fold of the card were fitted on a slide, by its name or its identity."""
    return identity in fold["identities"] or not {slide_id, plain_id(slide_id)}.isdisjoint(fold["slides"])


def _feed(text: str) -> Mapping[str, Any]:
    """Settings of embedding by name; a single entry where ``text`` is not a JSON object."""
    try:
        feed = reading.parse_json(text)
    except ValueError:
        feed = text
    return feed if isinstance(feed, dict) else {"encoder_feed": feed}
