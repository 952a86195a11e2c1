"""Studies: design, grid of cells, execution, and findings."""
