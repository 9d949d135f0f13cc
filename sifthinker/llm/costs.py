"""What the calls of an account have cost and will cost: reported, estimated, expected.

A call that reports no usage, or one that cannot be true, is estimated: four bytes of text are a token, a picture is
1,000 tokens, and what the server reported of earlier prompts corrects the guess. Estimates count against the budget
like any other cost, and are shown as such.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from sifthinker.config import Api
from sifthinker.core.errors import UserError
from sifthinker.llm.completion import Tokens
from sifthinker.llm.endpoint_errors import Dead, Doubtful, Dropped, Transient
from sifthinker.llm.request import Request
from sifthinker.llm.usage import Budget, Usage, priced

_IMAGE_TOKENS = 1000.0  # first guess of an image's tokens; the server's reports correct it
_BYTES_A_TOKEN = (
    4  # of UTF-8: English has four letters a token, Chinese less than one and a half tokens a letter
)


class BudgetSpent(UserError):
    """The hard stop. What was bought is in the ledger, and a higher budget continues from there."""


def guess(messages: Iterable[Mapping[str, Any]]) -> float:
    """Tokens that a prompt probably has, before anything is known of the server."""
    prompt = 0.0
    for message in messages:
        content = message["content"]
        for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
            prompt += _IMAGE_TOKENS if part["type"] == "image_url" else _text(part["text"])
    return prompt


def _text(text: str) -> float:
    size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    return size / _BYTES_A_TOKEN


class Costs:
    """What one account spends in one process. Use it in one event loop."""

    def __init__(self, api: Api, spent: Usage) -> None:
        """Starts from what the account has spent, as the ledger holds it."""
        self.api = api
        self.budget = Budget(api.budget_tokens, api.budget_money)
        self.spent = spent  # of the account, as the ledger holds it
        self.received = self.bought = Usage()  # paid for by this process; of that, what the ledger holds
        # Calls, prompts as guessed, prompts, completions: fading sums of tokens.
        self.seen = [0.0, 0.0, 0.0, 0.0]
        self._flying = Usage()  # what the calls on the wire will probably cost
        self._landed = asyncio.Event()

    @property
    def known(self) -> Usage:
        """What the account has cost, with what the ledger does not hold yet."""
        return self.spent + self.received - self.bought

    @property
    def is_spent(self) -> bool:
        """Whether the account has reached its budget."""
        return self.budget.spent(self.known)

    def line(self) -> str:
        """That the budget is spent, and on what."""
        currency, known = self.api.prices.currency, self.known
        limits = [
            f"{self.budget.tokens:,} tokens" if self.budget.tokens is not None else "",
            f"{self.budget.money:,.2f} {currency}" if self.budget.money is not None else "",
        ]
        estimated = f" ({known.estimated:,} of them estimated)" if known.estimated else ""
        return (
            f"the budget of {' and '.join(filter(None, limits))} is spent: {known.calls:,} calls, "
            f"{known.tokens:,} tokens{estimated}, {known.money:,.2f} {currency}. Everything bought is kept in the "
            "ledger; raise budget_tokens or budget_money to continue from there."
        )

    def guess(self, messages: Iterable[Mapping[str, Any]]) -> float:
        """`guess` where a limit or a budget needs it, else 0."""
        return guess(messages) if self.api.tokens_per_minute is not None or self.budget.limits else 0.0

    def expected(self, guessed: float, most: int) -> Usage:
        """What a call with such a prompt and an answer of at most `most` tokens will probably cost."""
        calls, guesses, prompts, completions = self.seen
        if guesses:
            return self._usage(guessed * prompts / guesses, completions / calls)
        return self._usage(guessed, most)

    def of(self, request: Request, error: Transient | Dead | Doubtful | Dropped) -> Usage:
        """What a reply cost that cannot be used; estimated where the server does not say."""
        if error.usage is not None:
            return error.usage
        return self.estimated(request.messages, error.size, request.max_tokens, error.lost)

    def estimated(
        self, messages: Iterable[Mapping[str, Any]], size: int, most: int, lost: bool = False
    ) -> Usage:
        """What a call has probably cost whose server does not say: with an answer of `size` bytes.

        An answer that was `lost` counts as those that came, and as the longest one where none is known.
        """
        calls, guesses, prompts, completions = self.seen
        prompt = guess(messages) * (prompts / guesses if guesses else 1.0)
        completion = min(size / _BYTES_A_TOKEN, most)
        if lost:
            completion = completions / calls if calls else most
        usage = self._usage(prompt, completion)
        return usage + Usage(estimated=usage.tokens)

    def _usage(self, prompt: float, completion: float) -> Usage:
        counted = Tokens(round(prompt), 0, round(completion))
        return priced(counted, self.api.prices, self.api.mode != "chat")

    def learn(self, guessed: float, usage: Usage) -> None:
        """Corrects later guesses by what the server reported."""
        if usage.estimated or not guessed:
            return
        news = (1.0, guessed, usage.prompt_tokens, usage.completion_tokens)
        self.seen = [0.99 * old + new for old, new in zip(self.seen, news, strict=True)]

    async def room(self, expected: Usage) -> bool:
        """Waits until a call fits into the budget beside those on the wire, and counts it as one of them.

        One that is alone always fits: what it costs is not known before. Returns False once the budget is spent.
        """
        if self.budget.limits:
            while self._flying.calls and self.budget.spent(self.known + self._flying) and not self.is_spent:
                self._landed.clear()
                await self._landed.wait()
            if self.is_spent:
                return False
        self._flying += expected
        return True

    def landed(self, expected: Usage) -> None:
        """The call is no longer on the wire."""
        self._flying -= expected
        self._landed.set()
