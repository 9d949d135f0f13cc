"""What happens to the stages of a run, said to whoever shows it while it runs.

Each event is a log record of `LOGGER` with the attribute `event`. Nobody listens by default: the logger is as quiet as the
root logger, and Prefect's own lines say the same. `sif run` listens in the flow's process (flows/commands/terminal.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sifthinker.store.manifest import Manifest

LOGGER = logging.getLogger("sif.events")


@dataclass(frozen=True)
class Began:
    """A stage is to be made."""

    label: str
    where: str  # "", or the pool


@dataclass(frozen=True)
class Moved:
    """How far a stage, or one of its shards, is."""

    label: str
    part: int | None  # of a shard, its number from 0
    done: int
    total: int | None
    note: str
    counted: bool = False  # the note says how far it is
    left: float | None = None  # seconds, where they are known


@dataclass(frozen=True)
class Ended:
    """A stage has its artifact, or has failed."""

    label: str
    seconds: float  # that it took this run
    cached: bool  # it was in the store
    manifest: Manifest | None  # of the artifact; None: it failed
    why: str = ""  # it failed


def tell(event: Began | Moved | Ended) -> None:
    """Says an event."""
    LOGGER.info("%s", event, extra={"event": event})


def heard() -> bool:
    """Whether somebody shows the events: then nothing else draws bars."""
    return LOGGER.level == logging.INFO  # its own: the root logger may be at INFO for other reasons


@contextmanager
def stage(label: str, cached: bool, where: str) -> Iterator[Callable[[Manifest | None], None]]:
    """Around a stage: says that it begins and how it ends. The block calls what it is given with the manifest."""
    began = time.monotonic()
    if not cached:
        tell(Began(label, where))

    def made(manifest: Manifest | None) -> None:
        tell(Ended(label, time.monotonic() - began, cached, manifest))

    try:
        yield made
    except Exception as error:
        tell(Ended(label, time.monotonic() - began, cached, None, str(error)))
        raise
