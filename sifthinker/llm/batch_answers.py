"""The answers of a batch, on their way into the ledger: they are bought, whether somebody waits for them or not."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial

from sifthinker.llm import completion
from sifthinker.llm.batch_calls import Outcome
from sifthinker.llm.commits import Commits
from sifthinker.llm.costs import Costs
from sifthinker.llm.endpoint_errors import Dead, Transient
from sifthinker.llm.ledger import Failure, Reply
from sifthinker.llm.usage import Usage

_TOGETHER = 500  # recorded in one commit: heartbeats wait for it


@dataclass(frozen=True, slots=True)
class Answer:
    """To one request of a batch."""

    key: str
    outcome: Outcome | Exception
    is_handed: bool  # to one who waits, and who records it with its cost


@dataclass(frozen=True, slots=True)
class _Priced:
    key: str
    outcome: Reply | Dead | Transient | None  # None: there is nothing to record
    usage: Usage
    is_handed: bool


class Answers:
    """Records answers. Used in one event loop."""

    def __init__(self, commits: Commits, costs: Costs) -> None:
        """`commits` is the ledger; `costs` estimates what a provider does not say."""
        self._commits, self._costs = commits, costs

    async def record(self, answers: list[Answer]) -> None:
        """Returns once all of them are in the ledger."""
        for at in range(0, len(answers), _TOGETHER):
            some = [await self._priced(answer) for answer in answers[at : at + _TOGETHER]]
            cost = sum((answer.usage for answer in some if not answer.is_handed), Usage())
            await self._commits.do(partial(self._record, some), cost)

    async def _priced(self, answer: Answer) -> _Priced:
        """What is to be recorded of an answer, and what it cost."""
        found: Reply | Dead | Transient
        if isinstance(answer.outcome, tuple):
            found, usage = answer.outcome
        elif isinstance(answer.outcome, (Dead, Transient)):
            found, usage = answer.outcome, answer.outcome.usage
        else:
            return _Priced(answer.key, None, Usage(), answer.is_handed)
        if usage is None:
            usage = await self._estimated(answer.key, found)
            if isinstance(found, Reply):
                prompt, completed = usage.prompt_tokens, usage.completion_tokens
                found = replace(found, prompt_tokens=prompt, completion_tokens=completed)
        if isinstance(found, Transient) and not usage.calls:  # not paid for; asked again by who wants it
            return _Priced(answer.key, None, Usage(), answer.is_handed)
        return _Priced(answer.key, found, usage, answer.is_handed)

    async def _estimated(self, key: str, found: Reply | Dead | Transient) -> Usage:
        size = 0
        if isinstance(found, Reply):
            size = len(found.text.encode())
        elif isinstance(found, Transient):
            size = found.size
        asked = json.loads(await self._commits.do(partial(self._commits.ledger.asked, key)) or b"{}")
        most = asked.get("max_tokens") or asked.get("max_completion_tokens") or completion.MOST_TOKENS
        return self._costs.estimated(asked.get("messages", ()), size, most)

    def _record(self, answers: list[_Priced]) -> None:
        """Writes what is not there yet, whoever has reserved the request by now."""
        ledger = self._commits.ledger
        for answer in answers:
            key, found = answer.key, answer.outcome
            if found is None:
                ledger.release(key)
            elif isinstance(ledger.claim(key, self._commits.account, b""), (Reply, Failure)):
                continue
            elif isinstance(found, Reply):
                ledger.settle(key, found, answer.usage)
            elif isinstance(found, Dead):
                ledger.fail(key, found.failure, True, answer.usage)
            else:
                ledger.fail(key, Failure(found.kind, found.detail), False, answer.usage)
