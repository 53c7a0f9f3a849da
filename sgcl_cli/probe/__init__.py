"""What is learned on frozen features: splits, linear, knn, mil, and the metrics that judge it."""
