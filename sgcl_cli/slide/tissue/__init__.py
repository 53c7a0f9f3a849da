"""From thumbnails and patches to tissue, marks, focus and nuclei. Pure functions of arrays."""
