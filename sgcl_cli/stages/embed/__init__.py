"""``sgcl embed``: from patches and an encoder to features."""

from sgcl_cli.stages.embed.run import embed

__all__ = ["embed"]
