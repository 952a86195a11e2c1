"""The built-in tasks, their caption sources, and the readers of data folders."""
