"""Distillation of a text tower from a frozen English one, from sentence pairs alone."""
