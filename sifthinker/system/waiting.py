"""Waiting for another thread so that it can be interrupted."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
STEP = 1.0  # seconds


def outcome(future: Future[T]) -> T:
    """A future's result, waited for in steps.

    An exception that is raised in another thread is not delivered while the thread waits for a lock, and a future's
    `result()` waits for one.
    """
    while True:
        try:
            return future.result(timeout=STEP)
        except TimeoutError:
            if future.done():  # by now, or the work itself has failed with one
                return future.result()
