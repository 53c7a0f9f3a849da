"""Annotation files, and labels of patches from them."""
