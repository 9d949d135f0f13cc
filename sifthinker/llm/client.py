"""Asks a vision-language model over HTTP: every request is paid once, within limits and a budget.

`Client` is a handle for one thread or many; all handles on one endpoint and ledger in a process share one
`engine.Engine`.
"""

from __future__ import annotations

import gc
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Self, TypeVar
from weakref import WeakKeyDictionary

from sifthinker.config import Api
from sifthinker.llm import bookkeeping, http, local_models
from sifthinker.llm.call_counts import Counts
from sifthinker.llm.dispatcher import Engine
from sifthinker.llm.ledger import Failure, Reply
from sifthinker.llm.request import Request
from sifthinker.system.waiting import STEP, outcome

T = TypeVar("T")
JUDGE = "judge"  # the scope of a judge's requests
_tally: ContextVar[list[Counts] | None] = ContextVar("tally", default=None)
_PENDING = 16  # answers per call in flight that may wait for an earlier one, since they come out in order


class Client:
    """Asks one endpoint. A context manager; every method may be called from any thread."""

    def __init__(
        self,
        api: Api,
        ledger: bookkeeping.Place,
        base_url: str | None = None,
        scope: str = "",
        again: Collection[str] = (),
    ) -> None:
        """`ledger` is where calls are recorded. `base_url` is where the endpoint really listens, if not where `api` says (the stand-in's port).

        `scope` is part of every request's key: whatever besides endpoint and model decides the answers, such
        as the digest of the weights that a local server serves; `JUDGE` of a judge. `again` are kinds of failures: what the ledger holds as
        refused for one of them is asked again.
        """
        decided = (scope, local_models.scope(api), local_models.server(api))
        self.api, self.scope = api, " ".join(filter(None, decided))
        place = ledger.resolve() if isinstance(ledger, Path) else ledger
        self.again, self._judges = again, scope == JUDGE
        self._where = (api, place, http.address(api, base_url))
        self._engine: Engine | None = None

    def __enter__(self) -> Self:
        """Starts the engine, or joins the one that other clients of the endpoint and ledger use."""
        assert self._engine is None, "a client is entered once"
        self._engine = _acquire(*self._where)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Ends the engine with its last client; a signal or a cancellation ends it for all clients."""
        interrupted = kind is not None and not issubclass(kind, (Exception, GeneratorExit))
        if interrupted and self._engine is not None:
            self._engine.interrupt()
        if (tally := _tally.get()) is not None:
            tally.append(_news(self.engine))
        self._engine = None
        _give_back(*self._where)

    @property
    def engine(self) -> Engine:
        """The shared engine, inside the `with` block."""
        assert self._engine is not None, "use the client in a `with` block"
        return self._engine

    def submit(self, request: Request) -> Future[Reply | Failure]:
        """Asks without waiting."""
        return self.engine.submit(self.reply(request))

    def ask(self, request: Request) -> Reply | Failure:
        """Asks and waits.

        Raises:
            Unauthorized: the endpoint refuses the account or the model.
            BudgetSpent: the budget is used up.
            Unreachable: the endpoint has stopped answering.
        """
        return outcome(self.submit(request))

    def ask_all(self, requests: Iterable[Request]) -> list[Reply | Failure]:
        """Asks concurrently; answers in the order of the requests, which are taken as they are needed.

        Raises: see `ask`; what is under way then is finished and kept in the ledger.
        """
        return list(self.answers(requests))

    def answers(self, requests: Iterable[Request]) -> Iterator[Reply | Failure]:
        """`ask_all` one by one: the following requests go on while an answer is looked at.

        Those that are answered wait for a slow one before them; requests, with their pictures, are held for those in
        flight and as many more.

        Raises: see `ask_all`.
        """
        waiting: deque[Future[Reply | Failure]] = deque()
        room = threading.Semaphore(2 * self.api.concurrency)
        try:
            for request in requests:
                while waiting and (waiting[0].done() or len(waiting) >= _PENDING * self.api.concurrency):
                    yield outcome(waiting.popleft())
                while not room.acquire(timeout=STEP):
                    pass  # see `outcome`
                future = self.submit(request)
                future.add_done_callback(lambda _: room.release())
                waiting.append(future)
            while waiting:
                yield outcome(waiting.popleft())
        finally:
            for future in waiting:
                future.cancel()

    async def reply(self, request: Request) -> Reply | Failure:
        """`ask` for coroutines that run on the engine's loop, see `start`."""
        # A policy's empty reply is a wrong one, kept as any other. A judge's says nothing, and would be kept for good.
        asked = replace(request, wants_text=True) if self._judges else request
        return await self.engine.reply(asked, self.scope, self.again)

    def start(self, work: Callable[[], Awaitable[T]]) -> Future[T]:
        """Runs `work()` on the engine's loop as soon as a place is free.

        There are a few more places than calls allowed in flight, over all threads and clients of the engine:
        whatever a row of work holds in memory, its pictures above all, is held that often at most.
        """
        engine = self.engine

        async def run() -> T:
            async with engine.rows:
                engine.check_interrupted()
                return await work()

        return engine.submit(run())

    def go_on(self) -> None:
        """Asks again after `Unreachable`, which ends all other asking."""
        self.engine.go_on()

    def expect(self, rows: int) -> None:
        """Adds to the rows that progress is measured against."""
        self.engine.rows_total += rows

    def row_done(self, kept: bool) -> None:
        """Counts a finished row."""
        self.engine.row_done(kept)

    def progress(self) -> Counts:
        """What the engine has done so far."""
        return self.engine.progress()


@contextmanager
def tallied() -> Iterator[list[Counts]]:
    """Collects what the clients that the block opens and closes have asked.

    Blocks of several threads share an engine: no call is in two of their tallies, and together they are all calls.
    """
    tally: list[Counts] = []
    token = _tally.set(tally)
    try:
        yield tally
    finally:
        _tally.reset(token)


_engines: dict[tuple[Api, bookkeeping.Place, str], tuple[Engine, int]] = {}
_told: WeakKeyDictionary[Engine, Counts] = WeakKeyDictionary()  # what of an engine is in a tally
_engines_lock = threading.Lock()
# The collector of cycles while an engine runs. Its defaults (700, 10, 10) take a fifth of the processor time of a call
# and now and then go through everything that Prefect and its like have imported, while no reply is read.
_COLLECTOR = (20_000, 10, 10)
_collector = gc.get_threshold()


def _news(engine: Engine) -> Counts:
    """What an engine has asked since the last tally."""
    with _engines_lock:
        before, _told[engine] = _told.get(engine), engine.progress()
        return _told[engine].since(before) if before else _told[engine]


def _acquire(api: Api, ledger: bookkeeping.Place, url: str) -> Engine:
    global _collector
    with _engines_lock:
        engine, users = _engines.get((api, ledger, url)) or (Engine(api, ledger, url), 0)
        if not _engines:
            _collector = gc.get_threshold()
            gc.set_threshold(*_COLLECTOR)
        _engines[api, ledger, url] = (engine, users + 1)
        return engine


def _give_back(api: Api, ledger: bookkeeping.Place, url: str) -> None:
    with _engines_lock:
        engine, users = _engines.pop((api, ledger, url))
        if users > 1:
            _engines[api, ledger, url] = (engine, users - 1)
            return
        if not _engines:
            gc.set_threshold(*_collector)
    engine.close()
