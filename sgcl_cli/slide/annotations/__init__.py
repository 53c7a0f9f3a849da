"""Annotations: their files, and the class per patch that follows from them."""
