"""Finding and opening slides, and reading their resolution."""
