"""Data on disk: the store, embeddings, archives, packs and downloads."""
