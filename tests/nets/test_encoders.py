from __future__ import annotations

from sgcl_cli.config import ARCHITECTURES
from sgcl_cli.nets.encoders import ENCODERS


def test_the_settings_know_every_encoder() -> None:
    assert tuple(ENCODERS) == ARCHITECTURES
