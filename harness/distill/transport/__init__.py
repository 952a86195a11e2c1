"""Optimal transport between tokens and over batches."""
