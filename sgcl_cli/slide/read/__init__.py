"""Reading of thumbnails, bands and patches of an open slide at a resolution."""
