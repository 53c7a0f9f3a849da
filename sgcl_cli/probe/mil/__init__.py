"""Multiple-instance learning on frozen features: one module per model, on packed bags."""
