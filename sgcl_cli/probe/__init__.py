"""Models on frozen features: cohorts and splits, linear and bag models, metrics with intervals."""
