"""Models on frozen features, and the targets they predict."""
