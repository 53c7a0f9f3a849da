"""Encoders and the projector, under torchvision's parameter names."""
