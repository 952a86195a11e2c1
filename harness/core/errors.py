"""Errors that users can fix."""

from __future__ import annotations


class HarnessError(Exception):
    """An error that the user can fix. The message names the file or value, what was expected, and the way out."""


class MissingError(HarnessError):
    """A folder lacks what was requested. A language that is named must exist; groups such as `--lang all` skip missing ones."""
