"""What annotating will probably cost, before anything is asked: calls, tokens and money."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sifthinker.config import Again, Annotate
from sifthinker.core import prompts
from sifthinker.core.records import Focus, Sample
from sifthinker.llm.completion import Tokens
from sifthinker.llm.usage import priced

_RETRIES = 1.15  # calls a row: a guess; the summary of a run has the number
_STEPS = 3.2  # steps a chain where no focus is known yet (measured: PAPER.md R3.4)
_PIXELS_A_TOKEN = 28 * 28  # Qwen2.5-VL's; other models differ
_STEP_TOKENS = 90  # of an area and its text in a reply


@dataclass(frozen=True, slots=True)
class Projection:
    """What a stage will probably cost, before anything is asked."""

    rows: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    money: float
    currency: str

    def line(self) -> str:
        """The projection for a person, in one line."""
        cost = f", {self.money:,.2f} {self.currency}" if self.money else ""
        return f"{self.calls:,} calls, {self.prompt_tokens:,} + {self.completion_tokens:,} tokens{cost}"


def project(
    samples: Iterable[Sample],
    focus: Iterable[Focus] | None,
    config: Annotate,
    sampled: int = 200,
    most: int | None = None,
) -> Projection:
    """Projects calls, tokens and money of the stage from its first `sampled` rows and the number of all rows.

    Args:
        samples: all rows.
        focus: where the chains look; None where that is not known yet, so that a mean number of steps is taken.
        config: the stage's.
        sampled: rows whose texts and pictures are measured.
        most: chains that are wanted; None: all rows are asked.
    """
    steps = {row.id: len(row.steps) for row in focus} if focus is not None else None
    rows = measured = 0
    prompt = completion = 0.0
    for row in samples:
        if steps is not None and row.id not in steps:
            continue
        rows += 1
        if measured == sampled:
            continue
        measured += 1
        count = steps[row.id] if steps is not None else _STEPS
        text = (
            len(config.prompt or prompts.ANNOTATOR_SYSTEM) + len(row.question) + len(row.answer) + 220 * count
        )
        prompt += text / 4 + count * min(row.width * row.height, config.max_pixels) / _PIXELS_A_TOKEN
        completion += count * _STEP_TOKENS + len(row.answer) / 4
        # Of the judge, whom any answer may need: an upper bound.
        prompt += (400 + len(row.question)) / 4 + min(
            row.width * row.height, config.max_pixels
        ) / _PIXELS_A_TOKEN
        completion += 10
    rows = rows if most is None else min(rows, most)
    scale = _RETRIES * rows / max(1, measured)
    tokens = Tokens(
        round(scale * prompt), 0, round(scale * completion)
    )  # of all rows: no limit of one call holds
    cost = priced(tokens, config.api.prices, config.api.mode != "chat")
    return Projection(
        rows,
        round(scale * 2 * measured),
        cost.prompt_tokens,
        cost.completion_tokens,
        cost.money,
        config.api.prices.currency,
    )


def borrowed_prices(again: Again, annotate: Annotate) -> str:
    """That a pass of `retry` asks another model at the prices of annotate's; "" where it does not, or has its own."""
    api = annotate.api
    if (
        again.api is not None
        or again.model in (None, api.model)
        or not (api.prices.prompt or api.prices.completion)
    ):
        return ""
    return f"{again.model} is asked at the prices of {api.model} (annotate.api.prices); give the pass an `api` with its own"
