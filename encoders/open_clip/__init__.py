"""Encoders of open_clip models."""
