"""Measured speed, against what people use instead. docs/performance.md holds the results."""
