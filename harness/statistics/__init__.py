"""Confidence intervals, significance tests, and the comparison of towers."""
