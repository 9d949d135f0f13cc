"""Work in as many processes as there are cores: its results in order, bounded, and gone with the process that asked.

`Workers` does what is small in the process that asks, and starts others only where the work lasts. They are spawned,
never forked: a flow's process has threads. What comes out is the same either way.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from sifthinker.core.errors import UserError
from sifthinker.system import processes

PATIENCE = 2.0  # seconds of work that this process does before it starts others, which takes each about one
LOOK = 0.5  # seconds between two looks at what the others have told
_GROUPS = Path("/sys/fs/cgroup")  # the control group of this process, as a container sees it

P = ParamSpec("P")
T = TypeVar("T")
I = TypeVar("I")  # noqa: E741 - an item
_ears: ContextVar[Callable[[int], None] | None] = ContextVar("_ears", default=None)


def available(groups: Path = _GROUPS) -> int:
    """Cores that this process may use: those that it is bound to, and no more than the quota of its container."""
    return max(1, min(len(os.sched_getaffinity(0)), math.ceil(_quota(groups))))


def _quota(groups: Path) -> float:
    """Cores' worth of time that a control group has; infinite where nothing limits it."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((groups / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        return int(quota) / int(period) if quota not in ("max", "-1") else 2.0**31
    return 2.0**31


def tell(done: int) -> None:
    """Says from within a piece of work that so much more of it is done; `Workers` hands it to whoever waits."""
    if ears := _ears.get():
        ears(done)


class Workers:
    """Does what it is asked in this process, and in several once it lasts. Use it in a `with` block, in one thread.

    A piece of work is a function of a module with arguments that can be pickled.
    """

    def __init__(
        self, count: int, patience: float = PATIENCE, heard: Callable[[int], None] = lambda _: None
    ) -> None:
        """Starts no process yet.

        Args:
            count: of processes; with 1 this one does everything.
            patience: seconds of work that this process does before it starts others.
            heard: is called in this process with what work says by `tell`.
        """
        self.count = 1 if multiprocessing.current_process().daemon else count  # a daemon may have no children
        self._patience = patience
        self._heard = heard
        self._spent = 0.0
        self._pool: _Pool | None = None

    @property
    def ahead(self) -> int:
        """Pieces of work that are worth asking for at once: each process has one and its next."""
        return 2 * self.count if self._pool else 1

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Asks for a piece of work; `result` gives what comes of it.

        Raises: what the work raises, where this process does it at once.
            UserError: a process of the work was killed.
        """
        if self._pool is None and (self.count == 1 or self._spent < self._patience):
            began = time.perf_counter()
            done: Future[T] = Future()
            before = _ears.set(self._heard)
            try:
                done.set_result(work(*args, **kwargs))
            finally:
                _ears.reset(before)
            self._spent += time.perf_counter() - began
            return done
        if self._pool is None:
            self._pool = _Pool(self.count)
        with self._explained():
            return self._pool.submit(work, *args, **kwargs)

    def result(self, future: Future[T]) -> T:
        """What comes of a piece of work; waits for it.

        Raises: what the work raises.
            UserError: a process of the work was killed.
        """
        while self._pool and not future.done():
            wait([future], LOOK)
            self._listen()
        self._listen()
        with self._explained():
            return future.result()

    def map(self, work: Callable[[I], T], items: Iterable[I]) -> Iterator[T]:
        """What comes of a piece of work for each item, in order; no more items are taken than are worth it.

        Raises: what the work raises for the first item for which it does, after what came before it.
        """
        asked: deque[Future[T]] = deque()
        for item in items:
            asked.append(self.submit(work, item))
            while len(asked) >= self.ahead:
                yield self.result(asked.popleft())
        while asked:
            yield self.result(asked.popleft())

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Says what it means that the processes are gone, which is seen as work is asked for, or as it is waited for."""
        try:
            yield
        except BrokenProcessPool as error:
            raise UserError(
                f"one of {self.count} processes was killed from outside, for lack of memory perhaps: run again, with a lower "
                "`processes` in the configuration if it was that"
            ) from error

    def _listen(self) -> None:
        if self._pool and (told := self._pool.told()):
            self._heard(told)

    def __enter__(self) -> Self:
        """The workers themselves."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the processes: at once where an exception ends the work."""
        if self._pool:
            self._pool.end(at_once=kind is not None)


class _Pool:
    """The processes, and the two lines to them."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        # Nothing is sent: the other end is told when this one is closed, and it is when this process is gone.
        theirs, self._lifeline = context.Pipe(duplex=False)
        self._count = context.Value("Q", 0)
        self._heard = 0
        self._executor = ProcessPoolExecutor(count, context, _begin, (os.getpid(), theirs, self._count))
        self._theirs = theirs  # each process is given it when it is started

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        with _starting():
            return self._executor.submit(work, *args, **kwargs)

    def told(self) -> int:
        """What was told since the last time."""
        if not self._count.get_lock().acquire(timeout=LOOK):
            return 0  # its holder was killed
        try:
            new = int(self._count.value) - self._heard
        finally:
            self._count.get_lock().release()
        self._heard += new
        return new

    def end(self, at_once: bool) -> None:
        if at_once:
            self._lifeline.close()
        self._executor.shutdown(wait=True, cancel_futures=at_once)
        self._lifeline.close()
        self._theirs.close()


def _begin(parent: int, lifeline: Connection, count: Any) -> None:
    """The beginning of a process: it ends with the one that started it."""
    processes.end_with(parent, also=lambda: not lifeline.poll(), group=False)
    # Rows are many small objects without cycles: with Python's own thresholds, looking for cycles takes longer than they do.
    gc.set_threshold(50_000, 20, 50)

    def add(done: int) -> None:
        if count.get_lock().acquire(timeout=LOOK):
            try:
                count.value += done
            finally:
                count.get_lock().release()

    _ears.set(add)


@contextmanager
def _starting() -> Iterator[None]:
    """Around what may start a process.

    It shall not run the main module of the program again, as multiprocessing does: nothing of it is needed, it may be a
    script that starts a flow, and Prefect alone takes a second. And Ctrl+C is for this process, not for that one.
    """
    main: dict[str, Any] = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: main[name] for name in ("__spec__", "__file__") if name in main}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a started process inherits it
    main.update(__spec__=None)
    main.pop("__file__", None)
    try:
        yield
    finally:
        main.update(kept)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
