"""Sources of pixels, one module for each library or format."""
