"""What a call to an endpoint can end in besides a reply: worth another try, refused for good, or the end of the stage."""

from __future__ import annotations

import asyncio

from sifthinker.core.errors import UserError
from sifthinker.llm.ledger import Failure
from sifthinker.llm.usage import Usage


class Unauthorized(UserError):
    """The endpoint serves nothing to this account, by this name or with these fields; every row would fail alike."""


class Doubtful(Unauthorized):
    """Probably about the account; but it may be about one request, as where a firewall before the model answers 403."""

    size, lost = 0, False  # of the answer, see `Transient`

    def __init__(self, told: str, failure: Failure, final: bool = False) -> None:
        """`told` is for a person where all requests fare alike, `failure` for the one request where they do not.

        `final`: that one is kept as refused. Else, since it may be about the account, the next run asks it again.
        """
        super().__init__(told)
        self.failure, self.final, self.usage = failure, final, Usage()


class NotFound(Doubtful):
    """404: what was asked for is not there."""


class Transient(Exception):
    """Worth another try."""

    def __init__(
        self,
        kind: str,
        detail: str,
        after: float | None = None,
        overload: bool = False,
        usage: Usage | None = Usage(),  # noqa: B008 (frozen)
        size: int = 0,
        unreachable: bool = False,
        lost: bool = False,
    ) -> None:
        """`usage` is what it cost all the same; None where that was not said, for an answer of `size` bytes.

        `unreachable`: no connection was made at all. `lost`: there may be an answer, of which nobody knows the size.
        """
        super().__init__(detail)
        self.kind, self.detail, self.overload = kind, detail, overload
        self.unreachable, self.lost = unreachable, lost
        self.after = after  # seconds, of a Retry-After
        self.usage, self.size = usage, size

    @property
    def is_paid(self) -> bool:
        """Whether it was, or may have been, paid for."""
        return self.usage is None or bool(self.usage.calls)


class Dropped(asyncio.CancelledError):
    """Cancelled after the request had gone: the provider answers and charges, whoever hears it."""

    usage, size, lost = None, 0, True  # as of a lost answer, see `Transient`


class Dead(Exception):
    """Refused for good, maybe for money."""

    final = True
    size, lost = 0, False  # of the answer, see `Transient`

    def __init__(self, failure: Failure, usage: Usage | None) -> None:
        """`usage` is None where the endpoint does not say what it cost."""
        super().__init__(failure.detail)
        self.failure, self.usage = failure, usage
