"""Encoders: models that put images and texts into one joint space."""
