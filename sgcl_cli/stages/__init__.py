"""Artefact in, artefact out; one public function each, usable from Python without the command line."""
