"""The built-in tasks: what they are made of, and how the folders that people already have are read."""
