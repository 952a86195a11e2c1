"""What was measured: the schema of records and tower cards, and their files."""
