"""Requests that wait for the model: who is made with whom, and what becomes of each."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from sifthinker.models import turns
from sifthinker.models.generation import GivenUp, Reply, Sampling, Unfit
from sifthinker.models.protocol import BadRequest, Completion


def text(prompt: str, **more: Any) -> Completion:
    return Completion(model="policy", prompt=prompt, **{"temperature": 0} | more)


class Prompt:
    """In the place of its tokens."""

    def __init__(self, text: str) -> None:
        self.text, self.shape = text, (1, len(text))


class Model:
    """Says each prompt in capitals, and notes what it was asked at once. Prompts of "close ..." are left to it alone."""

    folder = "here"

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.free = threading.Event()
        self.free.set()

    def continuation(self, prompt: str) -> dict[str, Any]:
        if prompt == "bad":
            raise Unfit("it is bad")
        if prompt == "worse":
            raise KeyError("a mistake of ours")
        seen = {"seen": torch.zeros(1)} if prompt.startswith("picture") else {}
        return {"input_ids": Prompt(prompt)} | seen

    def reply(self, inputs: dict[str, Any], sampling: Sampling, gone: Any, say: Any = None) -> Reply:
        self.free.wait(10)
        self.batches.append([inputs["input_ids"].text])
        if say is not None:
            say(inputs["input_ids"].text.upper())
        return Reply(inputs["input_ids"].text.upper(), "stop", 1, 1)

    def together(self, asked: Sequence[tuple[dict[str, Any], Sampling, Any]]) -> list[Reply | None]:
        prompts = [inputs["input_ids"].text for inputs, _, _ in asked]
        self.batches.append(prompts)
        if "poison" in prompts:
            raise RuntimeError("the batch fails")
        return [None if one.startswith("close") else Reply(one.upper(), "stop", 1, 1) for one in prompts]


def served(model: Model, count: int = 1, most: int = 4) -> turns.Turns:
    """As `share` leaves it, in this process."""
    made: Any = turns.Turns(model)  # type: ignore[arg-type]
    made._count, made._most = count, most
    return made  # type: ignore[no-any-return]


def said(made: turns.Turns, model: Model, *asked: Completion, says: Any = None) -> list[Any]:
    """The replies to requests that come while another is made, so that they wait together."""
    never = threading.Event()

    async def all_of_them() -> list[Any]:
        model.free.clear()
        first = asyncio.ensure_future(made.reply(text("first", stop=["x"]), never))
        await asyncio.sleep(0.05)
        rest = [asyncio.ensure_future(made.reply(one, never, says if one.stream else None)) for one in asked]
        model.free.set()
        await first
        return await asyncio.gather(*rest, return_exceptions=True)

    return [one.text if isinstance(one, Reply) else one for one in asyncio.run(all_of_them())]


def test_what_waits_is_made_together_up_to_the_most() -> None:
    model = Model()
    assert said(served(model), model, *map(text, "abcdef")) == list("ABCDEF")
    assert model.batches == [["first"], ["a", "b", "c", "d"], ["e", "f"]]


def test_each_core_takes_its_part_of_what_is_there() -> None:
    model = Model()
    made = served(model, count=2, most=16)
    with made._lock:
        made._waiting.extend(turns._Waiting(text(str(one)), threading.Event(), None) for one in range(10))
    assert [len(made._taken()) for _ in range(3)] == [5, 5, 0]


def test_a_stream_and_what_has_stop_texts_or_top_p_is_made_by_itself() -> None:
    model, pieces = Model(), list[str]()
    asked = [
        text("a"),
        text("b", stream=True),
        text("c"),
        text("d", top_p=0.5),
        text("e", stop=["!"]),
        text("f"),
    ]
    assert said(served(model), model, *asked, says=pieces.append) == list("ABCDEF")
    assert model.batches == [["first"], *([one] for one in "abcdef")]
    assert pieces == ["", "B"]


def test_conversations_with_and_without_pictures_are_two_batches() -> None:
    model = Model()
    asked = ("picture 1", "a", "picture 2", "b")
    assert said(served(model), model, *map(text, asked)) == [one.upper() for one in asked]
    assert model.batches == [["first"], ["picture 1", "picture 2"], ["a", "b"]]


def test_long_conversations_are_fewer_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TOKENS", 24)
    model = Model()
    asked = ("a", "b" * 12, "c", "d")
    assert said(served(model), model, *map(text, asked)) == [one.upper() for one in asked]
    assert model.batches == [["first"], ["a", "b" * 12], ["c", "d"]]
    model = Model()
    assert said(served(model), model, text("a" * 30), text("b")) == ["A" * 30, "B"]
    assert model.batches == [["first"], ["a" * 30], ["b"]]


def test_a_bad_request_and_a_close_one_leave_the_others_alone() -> None:
    model = Model()
    one, bad, close, worse = said(served(model), model, *map(text, ("a", "bad", "close b", "worse")))
    assert (one, close) == ("A", "CLOSE B")
    assert isinstance(bad, BadRequest) and "it is bad" in str(bad)
    assert isinstance(worse, KeyError)
    assert model.batches == [["first"], ["a", "close b"], ["close b"]]


def test_where_a_batch_fails_each_is_made_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    model = Model()
    assert said(served(model), model, *map(text, ("a", "poison"))) == ["A", "POISON"]
    assert model.batches == [["first"], ["a", "poison"], ["a"], ["poison"]]
    assert "2 requests could not be answered together" in caplog.text


def test_nothing_is_made_of_a_request_whose_client_has_gone_or_of_a_server_that_ends() -> None:
    model = Model()
    made = served(model)
    gone, never = threading.Event(), threading.Event()
    gone.set()

    async def asking() -> list[Any]:
        model.free.clear()
        first = asyncio.ensure_future(made.reply(text("first", stop=["x"]), never))
        await asyncio.sleep(0.05)
        left = asyncio.ensure_future(made.reply(text("left"), gone))
        model.free.set()
        found = await asyncio.gather(first, left, return_exceptions=True)
        model.free.clear()
        under_way = asyncio.ensure_future(made.reply(text("under way", stop=["x"]), never))
        await asyncio.sleep(0.05)
        waits = asyncio.ensure_future(made.reply(text("waits"), never))
        made.end()
        model.free.set()
        return [*found, *await asyncio.gather(under_way, waits, return_exceptions=True)]

    first, left, _, waits = asyncio.run(asking())
    assert first.text == "FIRST" and isinstance(left, GivenUp) and isinstance(waits, asyncio.CancelledError)
    assert ["left"] not in model.batches and ["waits"] not in model.batches
