"""Ranking and scoring: from embeddings to ranks and metrics."""
