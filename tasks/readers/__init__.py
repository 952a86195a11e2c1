"""Readers of the layouts in which captions, bitext and pictures are found."""
