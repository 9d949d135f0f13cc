"""A look at the first chains before the rest is paid for: the stage's own requests, so that nothing is bought twice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from sifthinker.annotation.annotate import Annotator
from sifthinker.annotation.first_rows import FirstRow
from sifthinker.config import Annotate
from sifthinker.core.records import Annotation, DepthMap, Region, Reject, Sample
from sifthinker.llm import Client, Failure, Reply, Request
from sifthinker.llm.completion import Tokens
from sifthinker.llm.usage import Usage, priced
from sifthinker.system.waiting import outcome


class Metered(Client):
    """Counts what its replies cost, whether they were bought now or before."""

    used = Usage()  # of all replies
    bought = 0  # of them, those that were asked now

    async def reply(self, request: Request) -> Reply | Failure:
        """See `Client.reply`."""
        reply = await super().reply(request)
        if isinstance(reply, Reply):
            counted = Tokens(reply.prompt_tokens, 0, reply.completion_tokens)
            self.used += priced(counted, self.api.prices, self.api.mode != "chat")
            self.bought += not reply.cached
        return reply


@dataclass(frozen=True, slots=True)
class Seen:
    """A row, and what became of it."""

    row: FirstRow
    result: Annotation | Reject

    @property
    def shown(self) -> tuple[Sample, DepthMap, tuple[tuple[Region, ...], ...], Annotation | Reject]:
        """What a page shows of it."""
        return self.row.sample, self.row.map, self.row.steps, self.result


@dataclass(frozen=True, slots=True)
class Previewed:
    """The first rows, what they cost, and what all rows would."""

    seen: list[Seen]
    used: Usage  # of the first rows
    bought: int  # calls, made now
    rows: int  # of the whole stage
    wanted: int | None = None  # chains, where not all rows are asked

    @property
    def kept(self) -> int:
        """Rows with a chain."""
        return sum(isinstance(one.result, Annotation) for one in self.seen)

    @property
    def asked(self) -> int:
        """Rows that the whole stage would ask."""
        if self.wanted is None or not self.kept:
            return self.rows
        return min(self.rows, math.ceil(self.wanted * len(self.seen) / self.kept))

    def whole(self) -> Usage:
        """What all rows would cost, by the mean of these."""
        scale = self.asked / max(1, len(self.seen))
        used = self.used
        return Usage(
            round(scale * used.calls),
            round(scale * used.prompt_tokens),
            0,
            round(scale * used.completion_tokens),
            scale * used.money,
        )

    def lines(self, config: Annotate) -> list[str]:
        """For a person: how many were accepted, what these cost, and what all would."""
        whole = self.whole()
        return [
            f"{self.kept} of {len(self.seen)} rows have a chain; {self.used.calls} calls, {self.bought} of them made now, "
            f"{_cost(self.used, config)}",
            f"all {self.asked:,} rows would take about {whole.calls:,} calls, {_cost(whole, config)}, and give about "
            f"{round(self.asked * self.kept / max(1, len(self.seen))):,} chains",
        ]


def _cost(usage: Usage, config: Annotate) -> str:
    prices = config.api.prices
    money = f", {usage.money:,.2f} {prices.currency}" if usage.money else " (set api.prices to see money)"
    return f"{usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens{money}"


def preview(
    rows: Sequence[FirstRow], annotator: Annotator, client: Metered, total: int, wanted: int | None = None
) -> Previewed:
    """Annotates the rows as the stage does; `annotator` asks through `client`.

    Of the whole stage there are `total` rows, of which `wanted` chains are wanted (None: all).

    Raises: see `annotate.annotate`.
    """
    client.expect(len(rows))
    asked = [client.start(partial(annotator.annotated, row.sample, row.steps)) for row in rows]
    seen = []
    for row, future in zip(rows, asked, strict=True):
        result = outcome(future)
        client.row_done(kept=isinstance(result, Annotation))
        seen.append(Seen(row, result))
    return Previewed(seen, client.used, client.bought, total, wanted)
