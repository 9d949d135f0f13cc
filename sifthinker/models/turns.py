"""The model of the embedded server, asked for one reply at a time, or for several at once on each core.

Without a GPU a process on each core makes replies (`workers`), and takes up to `MOST` of the requests that wait, so that all cores
have about as many. A stream, and a request with stop texts or `top_p`, is made by itself, as everything is on a GPU.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from sifthinker.core.images import BadImage
from sifthinker.models import batches
from sifthinker.models.generation import GivenUp, Policy, Reply, Sampling, Unfit, picture
from sifthinker.models.protocol import BadRequest, Chat, Completion
from sifthinker.models.workers import Flag, Make, Say, Workers, outcomes

logger = logging.getLogger(__name__)

Messages = list[dict[str, Any]]
MOST = 16  # replies of a batch
TOKENS = 8192  # of a batch's conversations, filled up: what they take of memory grows with it


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request, and its reply to be."""

    asked: Chat | Completion
    gone: Flag
    say: Say | None
    reply: Future[Reply] = field(default_factory=Future)

    @property
    def alone(self) -> bool:
        return self.say is not None or not _several(self.asked.settings())


class Turns:
    """Requests that wait for the model, and the model."""

    def __init__(
        self,
        policy: Policy,
        prepare: Callable[[Messages], Messages] | None = None,
        finish: Callable[[str], str] | None = None,
    ) -> None:
        """Takes the model.

        Args:
            policy: the loaded model.
            prepare: makes of a conversation the one that the model is asked; raises `BadRequest` where it cannot.
                None: it is asked as it is.
            finish: makes of a reply's text the one that is sent; a stream then comes in one piece. None: as it is.
        """
        self.policy, self.prepare, self.finish = policy, prepare, finish
        # With another prompt, or less of the reply, it is not what an evaluation may take for the folder's model.
        self.root = str(policy.folder) if prepare is None and finish is None else ""
        self._make: Make = self._made
        self._threads = ThreadPoolExecutor(1, "generate")
        self._count, self._most = 1, 1
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._under_way = 0
        self._ended = threading.Event()

    def share(self, count: int, most: int = MOST) -> None:
        """Makes replies in so many processes from now on, at most so many at once; before this one starts threads."""
        self._make = Workers(self._made, count, (BadRequest, GivenUp))
        self._threads = ThreadPoolExecutor(count, "generate")
        self._count, self._most = count, most

    def reply(
        self, asked: Chat | Completion, gone: threading.Event, say: Say | None = None
    ) -> Awaitable[Reply]:
        """The reply, when its turn has come and it is made; `say` gets the pieces of it, on another thread."""
        one = _Waiting(asked, _Either(gone, self._ended), say)
        with self._lock:
            self._waiting.append(one)
        # One for each request. It takes others along, whose own turns then find nothing.
        self._threads.submit(self._turn)
        return asyncio.wrap_future(one.reply)

    def end(self) -> None:
        """Gives up what is under way, so that no thread keeps this process."""
        self._ended.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            for one in self._waiting:
                one.reply.cancel()

    def _turn(self) -> None:
        if not (taken := self._taken()):
            return
        asked, gone = [one.asked for one in taken], [one.gone for one in taken]
        made = outcomes(len(taken), self._make, asked, gone, taken[0].say)
        for one, reply in zip(taken, made, strict=True):
            if isinstance(reply, Exception):
                one.reply.set_exception(reply)
            else:
                one.reply.set_result(reply)
        with self._lock:
            self._under_way -= len(taken)

    def _taken(self) -> list[_Waiting]:
        """The requests that are made next, at most one core's part of all that are here."""
        with self._lock:
            most = min(self._most, -(-(len(self._waiting) + self._under_way) // self._count))
            taken: list[_Waiting] = []
            while self._waiting and len(taken) < most:
                if taken and (taken[0].alone or self._waiting[0].alone):
                    break
                one = self._waiting.popleft()
                if one.reply.set_running_or_notify_cancel():
                    taken.append(one)
            self._under_way += len(taken)
            return taken

    def _made(
        self, asked: Sequence[Chat | Completion], gone: Sequence[Flag], say: Say | None
    ) -> list[Reply | Exception]:
        """The reply to each, or why there is none."""
        inputs: list[Any] = []
        for one, nobody in zip(asked, gone, strict=True):
            inputs += outcomes(1, self._inputs, one, nobody)
        settings = [one.settings() for one in asked]
        made: list[Reply | None] = [None] * len(asked)
        for alike in _alike(inputs):
            batch = [(inputs[place], settings[place], gone[place]) for place in alike]
            for place, reply in zip(alike, self._together(batch), strict=True):
                made[place] = reply
        replies: list[Reply | Exception] = []
        for place, one in enumerate(inputs):
            if isinstance(one, Exception):
                replies.append(one)
            else:
                replies += outcomes(1, self._one, one, settings[place], gone[place], say, made[place])
        return replies

    def _one(
        self, inputs: Any, sampling: Sampling, gone: Flag, say: Say | None, made: Reply | None
    ) -> list[Reply]:
        """The reply as it is sent, made alone where it was not made in a batch.

        Raises:
            GivenUp: nobody waits for it.
        """
        if made is None:
            if gone.is_set():
                raise GivenUp
            if say is not None:
                say("")  # the request can be answered
            made = self.policy.reply(inputs, sampling, gone, say if self.finish is None else None)
        if self.finish is None:
            return [made]
        text = self.finish(made.text)
        if say is not None:
            say(text)
        return [Reply(text, made.finish_reason, made.prompt_tokens, made.completion_tokens)]

    def _inputs(self, asked: Chat | Completion, gone: Flag) -> list[Any]:
        """The model's inputs.

        Raises:
            BadRequest: it cannot be asked that.
            GivenUp: nobody waits for it.
        """
        if gone.is_set():
            raise GivenUp
        try:
            if isinstance(asked, Completion):
                return [self.policy.continuation(asked.prompt)]
            messages = asked.conversation()
            if self.prepare is not None:
                messages = self.prepare(messages)
            return [self.policy.conversation(_opened(messages))]
        except (BadImage, Unfit) as problem:
            raise BadRequest(str(problem), "messages" if isinstance(asked, Chat) else "prompt") from problem

    def _together(self, batch: Sequence[tuple[Any, Sampling, Flag]]) -> Sequence[Reply | None]:
        """Those of a batch's replies that can be made together. One bad request must not fail the others."""
        if len(batch) > 1:
            try:
                return self.policy.together(batch)
            except Exception:
                logger.exception(
                    "%d requests could not be answered together; each is made by itself", len(batch)
                )
        return [None] * len(batch)


def _several(sampling: Sampling) -> bool:
    """Whether a reply can be one of a batch."""
    return sampling.top_p == 1 and not sampling.stop


def _alike(inputs: Sequence[Any]) -> list[list[int]]:
    """The places of inputs that can be one batch."""
    found: dict[Any, list[int]] = {}
    for place, one in enumerate(inputs):
        if not isinstance(one, Exception):
            found.setdefault(batches.kind(one), []).append(place)
    return [part for places in found.values() for part in _fitting(places, inputs)]


def _fitting(places: list[int], inputs: Sequence[Any]) -> Iterator[list[int]]:
    """The same places, at most `TOKENS` at once."""
    longest = max(inputs[place]["input_ids"].shape[1] for place in places)
    most = max(1, TOKENS // longest)
    for first in range(0, len(places), most):
        yield places[first : first + most]


class _Either:
    """Set when one of two is."""

    def __init__(self, one: threading.Event, other: threading.Event) -> None:
        self._both = one, other

    def is_set(self) -> bool:
        return any(event.is_set() for event in self._both)


def _opened(messages: Messages) -> Messages:
    """The messages with the pictures themselves in the place of their addresses."""
    return [
        {**m, "content": [picture(part) if part["type"] == "image" else part for part in m["content"]]}
        for m in messages
    ]
