"""Alignment of a student's subwords with the teacher's English tokens: a module for each rule, and what rules share."""
