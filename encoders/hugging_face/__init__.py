"""Models in transformers' form."""
