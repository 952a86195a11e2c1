"""Leaderboards: from records to a ranked page."""
