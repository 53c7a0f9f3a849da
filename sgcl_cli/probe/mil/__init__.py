"""Multiple-instance learning on frozen features: one module a model, on packed bags."""
