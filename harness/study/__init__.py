"""A study: its grid of cells, its run, and what its records say."""
