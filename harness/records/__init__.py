"""Records of measurements: the schema of records and tower cards, and their files."""
