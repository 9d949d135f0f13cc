"""The ledger's operations of an engine, gathered: one thread, and one commit for all that wait together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from sifthinker.core.errors import UserError
from sifthinker.llm.costs import Costs
from sifthinker.llm.ledger import Ledger
from sifthinker.llm.usage import Usage

T = TypeVar("T")
_GATHER = 0.002  # seconds in which operations gather for one commit
_MOMENT = 0.2  # seconds between two looks at a ledger that is away


class Lapsed(Exception):
    """What was reserved may be another owner's by now."""


class _Failed:
    """An operation that failed by itself; the others of its commit are kept."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class Commits:
    """Used in one event loop."""

    def __init__(
        self, ledger: Ledger, account: str, costs: Costs, stop: Callable[[UserError], object]
    ) -> None:
        """`stop` is told where nothing can be recorded any more."""
        self.ledger, self.account, self._costs, self._stop = ledger, account, costs, stop
        self.seconds = 0.0  # spent in the ledger, for the benchmark
        self._queue: list[tuple[Callable[[], Any], Usage | None, asyncio.Future[Any]]] = []
        self._committing = False
        self._thread = ThreadPoolExecutor(1, "ledger")

    async def do(self, operation: Callable[[], T], usage: Usage | None = None) -> T:
        """Runs `operation` in the ledger's thread.

        With a `usage` it records something paid for, and the commit waits for the disk.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._queue.append((operation, usage, done))
        if usage is not None:
            self._costs.received += usage
        if not self._committing:
            self._committing = True
            self._task = loop.create_task(self._commits())
        return await done

    async def held(self, lapses: int, check: Callable[[], None]) -> None:
        """Waits until what was reserved after so many lapses is certainly still ours; `check` may end it.

        Raises:
            Lapsed: the lease has run out since.
        """
        while not self.ledger.is_held:
            await asyncio.sleep(_MOMENT)
            check()
        if self.ledger.lapses != lapses:
            raise Lapsed

    async def drained(self) -> None:
        """Waits until every operation is recorded, including those whose caller has given up waiting."""
        while self._committing:
            await asyncio.sleep(_GATHER)

    def shut_down(self) -> None:
        """Ends the thread that writes."""
        self._thread.shutdown()

    async def _commits(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            await asyncio.sleep(_GATHER)
            queue, self._queue = self._queue, []
            operations = [operation for operation, _, _ in queue]
            durable = any(usage is not None for _, usage, _ in queue)
            try:
                results, self._costs.spent = await loop.run_in_executor(
                    self._thread, self._commit, operations, durable
                )
            except Exception as error:  # noqa: BLE001 - to each of those who wait
                told: Exception = error
                if said := self.ledger.trouble(error):
                    told = UserError(f"{self.ledger.name}: {said}. What was recorded before is kept")
                    told.__cause__ = error
                if isinstance(
                    told, UserError
                ):  # what is bought now could not be recorded: nothing more is asked
                    self._stop(told)
                for _, _, done in queue:
                    if not done.done():
                        done.set_exception(told)
                continue
            for (_, usage, done), result in zip(queue, results, strict=True):
                if usage is not None:
                    self._costs.bought += usage
                if done.done():
                    continue
                if isinstance(result, _Failed):
                    done.set_exception(result.error)
                else:
                    done.set_result(result)
        self._committing = False

    def _commit(self, operations: list[Callable[[], Any]], durable: bool) -> tuple[list[Any], Usage]:
        began = time.perf_counter()

        def work() -> tuple[list[Any], Usage]:
            results = [self._apart(operation) for operation in operations]
            return results, self.ledger.usage(self.account)  # with what other processes bought

        results, spent = self.ledger.together(work, durable)
        self.seconds += time.perf_counter() - began
        return results, spent

    def _apart(self, operation: Callable[[], Any]) -> Any:
        """The operation's result, or why it failed alone."""
        try:
            with self.ledger.apart():
                return operation()
        except Exception as error:
            if self.ledger.trouble(error) or not self.ledger.is_open:  # nothing can be recorded
                raise
            return _Failed(error)
