"""Errors that a user can put right."""

from __future__ import annotations


class HarnessError(Exception):
    """Something the user can put right. The message names the file or value, what was expected, and the way out."""


class MissingError(HarnessError):
    """A folder has nothing of what was asked for. What is asked for by name must be there; `--lang all` passes over the rest."""
