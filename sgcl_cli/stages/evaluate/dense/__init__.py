"""Classes of single pixels: ``sgcl evaluate --dense``."""
