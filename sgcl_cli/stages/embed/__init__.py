"""Patches and an encoder in, features out: ``sgcl embed``."""

from sgcl_cli.stages.embed.run import embed

__all__ = ["embed"]
