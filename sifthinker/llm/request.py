"""A request to a model: the key under which it is paid once, and the body that is sent."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from sifthinker.config import Api
from sifthinker.llm.endpoint_errors import Transient
from sifthinker.llm.ledger import Reply
from sifthinker.llm.usage import Usage


@dataclass(frozen=True)
class Request:
    """One question to a model; equal requests are the same request and are paid once."""

    messages: list[dict[str, Any]]  # OpenAI form, images as data URLs
    temperature: float
    max_tokens: int
    seed: int | None = None
    extra: dict[str, Any] = field(default_factory=dict)  # more parameters of the body
    wants_text: bool = False  # an empty reply is no answer, and is asked for again; not part of the key

    def check(self, reply: Reply, usage: Usage | None) -> None:
        """Sees that the reply says something, where the request wants that.

        Raises:
            Transient: it is empty, though nothing cut it off. It was paid for.
        """
        if self.wants_text and not reply.text.strip() and reply.finish_reason in ("stop", ""):
            raise Transient("unreadable", "the reply is empty", usage=usage)

    def identity(self, api: Api, scope: str) -> tuple[str, bytes]:
        """Key and canonical form: everything that decides the answer, pictures by digest."""
        messages = [
            {**message, "content": [_by_digest(part) for part in message["content"]]}
            if isinstance(message["content"], list)
            else message
            for message in self.messages
        ]
        # A field that is not sent decides nothing: it is null, as a seed that is not set.
        asked = {
            "temperature": None,
            "max_tokens": None,
            "seed": None,
            **self._parameters(api),
            "endpoint": api.base_url,
            "model": api.model,
            "scope": scope,
            "extra": {**api.extra, **self.extra},
            "messages": messages,
        }
        record = orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(record).hexdigest(), record

    def body(self, api: Api) -> bytes:
        """The JSON that is sent."""
        body = {
            "model": api.model,
            "messages": self.messages,
            **self._parameters(api),
            **api.extra,
            **self.extra,
        }
        return orjson.dumps(body)  # ten times as fast as json with pictures in it

    def _parameters(self, api: Api) -> dict[str, Any]:
        """The fields of ours that the endpoint takes, under the names that it knows them by."""
        found: dict[str, Any] = {"temperature": self.temperature, api.token_limit_field: self.max_tokens}
        if self.seed is not None:
            found["seed"] = self.seed
        return {name: value for name, value in found.items() if name not in (*api.leave_out, "none")}


def outline(api: Api, request: Request) -> str:
    """The body of a request for a person: without its messages."""
    asked = Request([], request.temperature, request.max_tokens, request.seed, request.extra)
    shown: dict[str, Any] = orjson.loads(asked.body(api))
    shown["messages"] = "..."
    return json.dumps(shown, ensure_ascii=False)


def _by_digest(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") != "image_url":
        return part
    image = part["image_url"]
    return {"type": "image_url", "image_url": {**image, "url": _digest(image["url"])}}


@lru_cache(maxsize=16)  # a benchmark's questions about one picture follow each other, and share its text
def _digest(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()
