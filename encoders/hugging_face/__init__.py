"""Encoders, translators and initializers from models in transformers' format."""
