"""The endpoint of an API stage: the one that is configured, or the embedded stand-in while the stage runs."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from sifthinker import standin
from sifthinker.config import STANDIN, Api, Config
from tasks.stage import Job


def endpoint(api: Callable[[Config], Api]) -> Callable[[Job], AbstractContextManager[dict[str, str]]]:
    """For `@stage(around=...)`: gives the stage `base_url` and `ledger`."""

    @contextmanager
    def around(job: Job) -> Iterator[dict[str, str]]:
        ledger = str(job.store.root / "calls.sqlite")
        if api(job.config).base_url != STANDIN:
            yield {"base_url": api(job.config).base_url, "ledger": ledger}
            return
        job.log.warning("%s: the embedded stand-in answers, not a real model", job.order.label)
        job.notes["standin"] = "answers come from the embedded stand-in server, not from a model"
        with standin.running(job.work / "standin.log") as url:
            yield {"base_url": url, "ledger": ledger}

    return around


def ledger(context: dict[str, str]) -> Path:
    return Path(context["ledger"])
