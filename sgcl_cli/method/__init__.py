"""The mathematics of the objective: torch only; no device, rank, file, flag or clock."""
