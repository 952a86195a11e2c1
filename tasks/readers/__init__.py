"""Readers of captions and pictures in the layouts of their publishers."""
