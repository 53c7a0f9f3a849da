"""Scores of predictions with their intervals, and comparisons of models."""
