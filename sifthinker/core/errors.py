"""The error that a user can cause."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user's: the message says what was wrong, where, and what to do. Shown without traceback."""
