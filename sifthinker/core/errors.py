"""The errors that users and their files can cause."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user's: the message says what was wrong, where, and what to do. Shown without traceback."""


class BadRow(ValueError):
    """A row of a file that cannot be used, and becomes a `Reject`: `reason` is short and countable, `detail` is for a person."""

    def __init__(self, reason: str, detail: str, field: str = "") -> None:
        """The message is reason and detail; `field` names the field that is wrong, if one is."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.field = field
