"""The endpoint of an API stage: the one that is configured, or the embedded stand-in while the stage runs."""

import contextvars
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from sifthinker.config import STANDIN, Api, Config
from sifthinker.llm import bookkeeping, standin
from sifthinker.llm.call_counts import Counts, bar
from tasks.runtime.stage import Endpoints, Job, Progress

EVERY = 5.0  # seconds


def endpoint(api: Callable[[Config], Api]) -> Callable[[Job], AbstractContextManager[Endpoints]]:
    """For `@stage(around=...)`: gives the stage its one endpoint."""

    @contextmanager
    def around(job: Job) -> Iterator[Endpoints]:
        ledger = bookkeeping.place(job.store.root)
        if api(job.config).base_url != STANDIN:
            yield Endpoints(ledger, (api(job.config).base_url,))
            return
        job.log.warning("%s: the embedded stand-in answers, not a real model", job.order.label)
        job.notes["standin"] = "answers come from the embedded stand-in server, not from a model"
        with standin.running(job.work / "standin.log") as url:
            yield Endpoints(ledger, (url,))

    return around


@contextmanager
def watched(
    job: Job, progress: Callable[[], Counts], line: Callable[[Counts], str] = Counts.line
) -> Iterator[None]:
    """Shows rows, calls, tokens, money and the time left while the block runs, and keeps the totals as notes.

    A bar in a terminal, else lines in the log; and a progress artifact. `line` says the counts in words.
    """
    shown = Progress(job.order.label, None, job.log)
    done = threading.Event()

    def show() -> None:
        while not done.wait(EVERY):
            counts = progress()
            shown.total = counts.rows_total or None
            shown.at(counts.rows_done, line(counts))

    thread = threading.Thread(target=contextvars.copy_context().run, args=(show,), daemon=True)
    thread.start()
    try:
        with bar(progress, job.order.label, line=line) if sys.stderr.isatty() else nullcontext():
            yield
    finally:
        done.set()
        thread.join()
        counts = progress()
        job.notes.update(
            calls=counts.calls,
            answered_by_the_ledger=counts.cached,
            prompt_tokens_bought=counts.prompt_tokens,
            completion_tokens_bought=counts.completion_tokens,
        )
        if counts.estimated_tokens:  # of those bought; the server did not report them
            job.notes["tokens_estimated"] = counts.estimated_tokens
        if counts.money:
            job.notes["cost"] = f"{counts.money:.4f} {counts.currency}"
