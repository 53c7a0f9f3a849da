"""Synthetic H&E-like whole slides: where tissue lies, what it looks like, how it is stained, how it is stored."""
