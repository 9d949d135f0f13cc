"""What calls cost, and the most that they may cost."""

from __future__ import annotations

from dataclasses import dataclass

from sifthinker.config import Prices
from sifthinker.llm.completion import Tokens


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call, or an account so far, has cost."""

    calls: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt tokens, those the provider had cached
    completion_tokens: int = 0
    money: float = 0.0
    estimated: int = 0  # of all tokens, those that the server did not report

    @property
    def tokens(self) -> int:
        """Tokens of prompts and completions."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        """The sum of two usages, field by field."""
        return Usage(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
            self.money + other.money,
            self.estimated + other.estimated,
        )

    def __sub__(self, other: Usage) -> Usage:
        """The difference of two usages, field by field."""
        return Usage(
            self.calls - other.calls,
            self.prompt_tokens - other.prompt_tokens,
            self.cached_tokens - other.cached_tokens,
            self.completion_tokens - other.completion_tokens,
            self.money - other.money,
            self.estimated - other.estimated,
        )


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that an account may cost, counted over everything its ledger holds; none = no limit."""

    tokens: int | None = None
    money: float | None = None

    @property
    def limits(self) -> bool:
        """Whether there is a limit at all."""
        return self.tokens is not None or self.money is not None

    def spent(self, usage: Usage) -> bool:
        """Whether a usage has reached a limit."""
        return (self.tokens is not None and usage.tokens >= self.tokens) or (
            self.money is not None and usage.money >= self.money
        )


def priced(tokens: Tokens, prices: Prices, batch: bool) -> Usage:
    """What a call costs; cached prompt tokens may have a price of their own."""
    prompt, cached = tokens.prompt, tokens.cached
    cost = (
        (prompt - cached) * prices.prompt
        + cached * (prices.prompt if prices.cached_prompt is None else prices.cached_prompt)
        + tokens.completion * prices.completion
    )
    money = cost / 1e6 * (prices.batch_discount if batch else 1.0)
    return Usage(1, prompt, cached, tokens.completion, money)
