"""Every byte on disk, described once: one module per artefact, its schema beside its reader and writer."""
