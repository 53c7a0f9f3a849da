"""Slides to patches: ``sgcl tile``."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgcl_cli.stages.tile.run import tile

__all__ = ["tile"]


def __getattr__(name: str) -> Any:
    """The stage, imported on first use, since worker processes import this package and need only the modules for one slide."""
    if name != "tile":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sgcl_cli.stages.tile.run import tile

    return tile
