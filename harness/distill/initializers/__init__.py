"""How a student's embeddings are initialized from the teacher's."""
