"""The study on real tissue: python -m benchmarks.study."""
