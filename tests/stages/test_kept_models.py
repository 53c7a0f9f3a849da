from __future__ import annotations

from typing import Any

import pytest

from sgcl_cli.errors import ConfigError
from sgcl_cli.stages.kept_models import check_same_encoder, is_fitted_on

KNOWN = {"dim": 4, "encoder": "e", "encoder_sha256": "s", "encoder_feed": '{"layer": "layer4"}', "mpp": 0.5}


def compared(allow_mpp: bool = False, known: dict[str, Any] | None = None, **changes: Any) -> list[str]:
    card = {"features": {**KNOWN, **(known or {})}}
    return check_same_encoder(card, {**KNOWN, **changes}, "features/", allow_mpp=allow_mpp)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dim": 5}, "features/ has features of 5 dimensions, the models were fitted on 4"),
        ({"encoder_sha256": "t"}, r"features/ is from another encoder \(e\), the models were fitted on e"),
        ({"encoder_feed": '{"layer": "layer3"}'}, "features/ was embedded with other settings: .*layer3"),
        ({"encoder_feed": "[" * 10**5}, "features/ was embedded with other settings"),
        ({"mpp": 0.56}, "the features are at 0.56 µm/px, the models were fitted at 0.5 µm/px"),
    ],
)
def test_what_differs_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compared(**changes)


def test_what_agrees_or_is_allowed_passes() -> None:
    assert compared() == compared(mpp=0.54) == []
    assert compared(allow_mpp=True, mpp=1.0) == ["the features are at 1 µm/px, the models were fitted at 0.5 µm/px"]


def test_what_is_not_recorded_is_warned_of() -> None:
    said = "cannot be compared: one side does not record it"
    assert compared(encoder_sha256=None) == [f"the encoder {said}"]
    assert compared(known={"mpp": None}) == [f"the resolution {said}"]


@pytest.mark.parametrize(
    ("slide_id", "identity", "fitted"),
    [("a", "x", True), ("a.svs", "x", True), ("b", "i", True), ("b", "x", False), ("", "", False)],
)
def test_a_slide_is_known_by_name_or_identity(slide_id: str, identity: str, fitted: bool) -> None:
    fold = {"slides": ["a"], "identities": ["i"], "patients": ["b"]}
    assert is_fitted_on(fold, slide_id, identity) is fitted
