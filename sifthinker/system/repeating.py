"""Something that is done again and again in a thread while a block runs: a bar redrawn, a line said."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated(action: Callable[[], None], every: Callable[[], float]) -> Iterator[None]:
    """Calls `action` until the block ends, `every()` seconds after it began and after each call; in its context.

    An error of `action` ends the calls and is shown by the thread; the block goes on.
    """
    done = threading.Event()

    def loop() -> None:
        while not done.wait(every()):
            action()

    thread = threading.Thread(
        target=contextvars.copy_context().run, args=(loop,), name="repeating", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
