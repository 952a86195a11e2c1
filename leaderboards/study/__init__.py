"""A study's report as a page."""
