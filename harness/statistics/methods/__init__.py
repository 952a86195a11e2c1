"""Formulas of single methods: equivalence tests, meta-analysis, rates with few hits, planning."""
