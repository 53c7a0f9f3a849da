"""From whole-slide images to a pretrained encoder to honest downstream numbers."""

__version__ = "0.1.0"
