"""Whether what an endpoint refuses in one request it refuses in all: asking on would fail every row alike.

A request can be refused for what all have (the key, the model, a field), or for what it alone has: a firewall before the
model answers 403 to words of a question, and an aggregator 404 where no model takes a picture of that size.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

IN_A_ROW = 5  # refusals without an answer between them, once there were answers: all fare alike


class Witnesses:
    """Counts refusals whose reason may be one request's alone. Used in one event loop."""

    def __init__(self) -> None:
        """Before any refusal."""
        self._refused = self._in_a_row = self._answers = 0

    async def agree(self, answers: Callable[[], int], in_flight: Callable[[], int]) -> bool:
        """Whether all requests fare like one that was just refused.

        They do where none was ever answered, once a second one was refused or no other is on its way; and where
        `IN_A_ROW` were refused since the last answer.

        Args:
            answers: how many there were so far.
            in_flight: requests on their way.
        """
        self._refused += 1
        self._in_a_row = self._in_a_row + 1 if answers() == self._answers else 1
        self._answers = answers()
        while not answers() and self._refused < 2 and in_flight():
            await asyncio.sleep(0.02)
        return not answers() or self._in_a_row >= IN_A_ROW
