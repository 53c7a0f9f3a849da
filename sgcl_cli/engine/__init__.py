"""Device, precision, ranks, worker processes: how things run."""
