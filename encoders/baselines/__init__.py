"""Baselines without a neural network, and precomputed features."""
