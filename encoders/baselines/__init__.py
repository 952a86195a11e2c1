"""Baselines without a neural network, and features computed elsewhere."""
