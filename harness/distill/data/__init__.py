"""Sentence pairs and text for distillation."""
