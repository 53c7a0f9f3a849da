"""Patches in, an encoder out: ``sgcl pretrain``."""

from sgcl_cli.stages.pretrain.run import pretrain

__all__ = ["pretrain"]
