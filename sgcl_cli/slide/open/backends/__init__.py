"""Backends that decode pixels, one module per library or format."""
