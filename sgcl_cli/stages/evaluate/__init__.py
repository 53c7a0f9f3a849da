"""Features and labels in, scores with intervals out: ``sgcl evaluate``."""

from sgcl_cli.stages.evaluate.run import evaluate

__all__ = ["evaluate"]
