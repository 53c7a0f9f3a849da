"""Colours of classes, the same on overlays and pages.

Twenty colours from a grid in sRGB that maximise the smallest CIEDE2000 difference between any two: for normal vision and,
weighted by 1.5 to 1.7, for the kinds of colour blindness, simulated after Machado, Oliveira and Fernandes (2009, "A
physiologically-based model for simulation of color vision deficiency"). None is close to glass, eosin, haematoxylin or the
outline of tissue. The first few are the furthest apart.
"""

from __future__ import annotations

RGB = tuple[int, int, int]

CLASSES: tuple[RGB, ...] = (
    (0, 238, 238),
    (255, 204, 0),
    (17, 51, 119),
    (187, 17, 68),
    (153, 136, 255),
    (0, 119, 170),
    (187, 221, 153),
    (0, 170, 136),
    (102, 0, 0),
    (102, 136, 17),
    (0, 102, 68),
    (0, 0, 255),
    (119, 68, 0),
    (221, 102, 119),
    (85, 17, 68),
    (204, 0, 153),
    (187, 170, 102),
    (136, 187, 255),
    (153, 68, 255),
    (255, 51, 34),
)
UNKNOWN: RGB = (128, 136, 144)
TISSUE: RGB = (0, 140, 60)
PATCH: RGB = (30, 60, 200)


def of_class(number: int) -> RGB:
    """The colour of a class; colours repeat after the twentieth."""
    return CLASSES[number % len(CLASSES)]


def hexadecimal(colour: RGB) -> str:
    """A colour in CSS notation, such as ``#00eeee``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
