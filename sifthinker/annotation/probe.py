"""One call before a stage: a real row with the real parameters, so that a wrong setting costs one call and not thousands.

The call is the stage's first one, and goes through its ledger: it is paid once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sifthinker.annotation.acceptance import Refused, check
from sifthinker.annotation.annotate import Annotator, messages
from sifthinker.annotation.early_stop import Hopeless, advice
from sifthinker.annotation.first_rows import FirstRow
from sifthinker.core.images import BadImage
from sifthinker.llm import Failure, Reply, Request
from sifthinker.system.waiting import outcome

Log = logging.Logger | logging.LoggerAdapter[Any]
ROWS = 3  # that fail before the stage is given up: one alone may be the row's fault
_SHOWN = 300  # characters of a reply
_OF_THE_ROW = ("bad-request", "content-filter")  # what a row may be refused for by every endpoint


@dataclass(frozen=True, slots=True)
class Probed:
    """What came of a probe."""

    said: str  # for a person
    sound: bool = True  # whether the reply is what the stage wants

    def log(self, log: Log, label: str) -> None:
        """Says it; as a warning where many replies like this one would be paid for nothing."""
        log.log(logging.INFO if self.sound else logging.WARNING, "%s: %s", label, self.said)


def probe(rows: Sequence[FirstRow], annotator: Annotator, before: Mapping[str, str] | None = None) -> Probed:
    """Asks the first attempt of one row, and of up to two more where that fails.

    Args:
        rows: the first ones that can be asked.
        annotator: asks them.
        before: why these rows were rejected before, by id, where they are asked again. A row that is refused once more for
            the same reason says nothing of the settings.

    Raises:
        Hopeless: all of them failed.
        BudgetSpent: see `Client.ask`.
        Unauthorized: see `Client.ask`.
        Unreachable: see `Client.ask`.
    """
    failures: list[Failure] = []
    as_before: list[Failure] = []
    for some in (rows[:1], rows[1:ROWS]):
        asked = [(row, annotator.client.start(partial(_reply, annotator, row))) for row in some]
        for row, future in asked:
            reply = outcome(future)
            if isinstance(reply, Reply):
                return _told(row, reply)
            if isinstance(reply, Failure):
                known = reply.kind in _OF_THE_ROW and (before or {}).get(row.sample.id) == reply.kind
                (as_before if known else failures).append(reply)
    if failures:
        last = failures[-1]
        raise Hopeless(
            f"the probe before the stage failed for {len(failures)} rows: {last.kind}: {last.detail}\nNothing more was asked. "
            f"{advice(last.kind)} annotate.probe = false goes on nevertheless."
        )
    if as_before:
        last = as_before[-1]
        return Probed(
            f"probe: {len(as_before)} rows are refused as they were before: {last.kind}: {last.detail}",
            sound=False,
        )
    return Probed("no probe: none of the first rows can be asked")


async def _reply(annotator: Annotator, row: FirstRow) -> Reply | Failure | None:
    """The first attempt's reply; None for a row whose picture cannot be read: the stage rejects it."""
    try:
        _, pictures = await asyncio.to_thread(annotator.pictures, row.sample, row.steps)
    except BadImage:
        return None
    config = annotator.config
    talk = messages(row.sample, row.steps, pictures, config.prompt)
    return await annotator.client.reply(Request(talk, config.temperature, config.max_tokens, config.seed))


def _told(row: FirstRow, reply: Reply) -> Probed:
    verdict = check(reply.text, row.steps, row.sample)
    sound = reply.finish_reason != "length" and not isinstance(verdict, Refused)
    if reply.finish_reason == "length":
        said = "was cut off: raise annotate.max_tokens"
    elif isinstance(verdict, Refused):
        said = f"would be sent back as {verdict.kind} ({verdict.reason})"
    else:
        said = "is a chain"
    source = "the ledger" if reply.cached else f"{reply.model} in {reply.seconds:.1f} s"
    tokens = f"{reply.prompt_tokens:,} + {reply.completion_tokens:,} tokens"
    return Probed(
        f"probe: row {row.sample.id}, {tokens}, by {source}: the reply {said}: {reply.text[:_SHOWN]!r}", sound
    )
