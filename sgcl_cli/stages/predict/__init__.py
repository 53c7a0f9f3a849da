"""``sgcl predict``."""

from sgcl_cli.stages.predict.run import predict

__all__ = ["predict"]
