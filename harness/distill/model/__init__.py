"""The student, the teacher and the text tower."""
