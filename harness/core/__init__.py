"""Data types, protocols, configuration and registries. Imports nothing else of the project."""
