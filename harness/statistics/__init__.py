"""Uncertainty, tests, and the comparison of towers."""
