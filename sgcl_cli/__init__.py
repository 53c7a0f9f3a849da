"""Tile whole-slide images, pretrain an encoder on them without labels, and evaluate its features."""

__version__ = "0.1.0"
