"""Slides in, patches out: ``sgcl tile``."""

from sgcl_cli.stages.tile.run import tile

__all__ = ["tile"]
