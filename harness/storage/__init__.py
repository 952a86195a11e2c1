"""What is kept on disk: the store, embeddings, archives and downloads."""
