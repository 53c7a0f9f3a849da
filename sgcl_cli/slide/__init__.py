"""Slides to arrays of pixels, masks and labels; the only package that imports OpenSlide."""
