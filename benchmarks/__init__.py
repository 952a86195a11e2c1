"""Speed against common alternatives. docs/performance.md has the results."""
