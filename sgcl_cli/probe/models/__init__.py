"""Models on frozen features, and their targets."""
