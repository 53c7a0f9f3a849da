"""``sgcl predict``: predictions of fitted models for other slides."""

from sgcl_cli.stages.predict.run import predict

__all__ = ["predict"]
