"""Slides in, arrays out: the only room that knows OpenSlide."""
