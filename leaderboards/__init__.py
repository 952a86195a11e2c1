"""Records that the project itself measured, and what is shown of records side by side."""
