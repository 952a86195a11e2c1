"""The records that boards rank: reading them as untrusted files, checking them, and merging submissions."""
