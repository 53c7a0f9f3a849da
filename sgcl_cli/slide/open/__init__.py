"""Finding and opening slides, and what they record about their resolution."""
