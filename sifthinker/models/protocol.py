"""The OpenAI protocol as the embedded server speaks it: requests that are read, and replies that are written.

What is not supported is refused by its name and never ignored. A field at the value that changes nothing is taken.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sifthinker.models.generation import Reply, Sampling

_DEFAULT_TOKENS = 1024  # of a reply to a conversation that names no limit
# Fields of the protocol that this server does not have, with the values that ask for nothing.
_NOTHING: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "best_of": (1,),
    "echo": (False,),
}
_UNKNOWN = "this server has no such field; leave it out"
_LABELS = {"user", "metadata", "store", "safety_identifier", "prompt_cache_key", "service_tier"}  # no effect


class BadRequest(ValueError):
    """A request that cannot be answered: `param` is the field, `status` and `code` as OpenAI has them."""

    def __init__(self, message: str, param: str | None = None, status: int = 400, code: str | None = None):
        """The message says what is wrong and what to do."""
        super().__init__(message)
        self.param, self.status, self.code = param, status, code

    def __reduce__(self) -> tuple[Any, ...]:
        """All of it, for another process."""
        return type(self), (str(self), self.param, self.status, self.code)

    def body(self) -> dict[str, Any]:
        """The error as the protocol has it."""
        return error(str(self), "invalid_request_error", self.param, self.code)


def error(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The body of a reply that is an error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, given: Any) -> Any:
        """Leaves out what is null or empty: an SDK writes its optional fields that way."""
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None and value not in ([], {})}


class _Text(_Part):
    type: Literal["text"]
    text: str


class _Address(_Part):
    url: str
    detail: Literal["auto", "low", "high"] = "auto"  # the folder's own pixel budget holds


class _Picture(_Part):
    type: Literal["image_url"]
    image_url: _Address


class _Message(_Part):
    role: Literal["system", "developer", "user", "assistant"]
    content: list[Annotated[_Text | _Picture, Field(discriminator="type")]]
    name: str = ""

    @field_validator("content", mode="before")
    @classmethod
    def _one_text_is_a_list_of_one(cls, given: Any) -> Any:
        return [{"type": "text", "text": given}] if isinstance(given, str) else given

    def parts(self) -> dict[str, Any]:
        """The message with its list of parts: texts, and pictures by their addresses."""
        content = [
            {"type": "text", "text": part.text}
            if isinstance(part, _Text)
            else {"type": "image", "url": part.image_url.url}
            for part in self.content
        ]
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class _StreamOptions(_Part):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class _Request(_Part):
    model: str
    temperature: float = Field(1.0, ge=0, le=100, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: list[Annotated[str, Field(min_length=1)]] = Field([], max_length=16)
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()
    max_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _nothing_unknown(cls, given: Any) -> Any:
        """Refuses what the server does not have; leaves out what asks for nothing."""
        if not isinstance(given, dict):
            return given
        kept = {}
        for name, value in given.items():
            if name in _LABELS or value is None or value in ([], {}):
                continue
            if name not in _NOTHING:
                kept[name] = value
            elif value not in _NOTHING[name]:
                raise BadRequest(
                    f"{name}: {json.dumps(value)[:80]} is not supported by this server; leave the field out",
                    name,
                )
        return kept

    @field_validator("stop", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given

    def sampling(self, most: int) -> Sampling:
        """How the reply is generated; `most` tokens."""
        return Sampling(most, self.temperature, self.top_p, self.seed, tuple(self.stop))


class Chat(_Request):
    """A request for the next message of a conversation."""

    messages: list[_Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    def settings(self) -> Sampling:
        """How the reply is generated."""
        return self.sampling(self.max_completion_tokens or self.max_tokens or _DEFAULT_TOKENS)

    def conversation(self) -> list[dict[str, Any]]:
        """The messages, each with its list of parts."""
        return [message.parts() for message in self.messages]


class Completion(_Request):
    """A request for the continuation of a text."""

    prompt: str = Field(min_length=1)

    def settings(self) -> Sampling:
        """How the reply is generated; 16 tokens where the request does not say, as OpenAI has it."""
        return self.sampling(self.max_tokens or 16)


Asked = TypeVar("Asked", Chat, Completion)


def read(kind: type[Asked], body: bytes, model: str) -> Asked:
    """The request in a body.

    Raises:
        BadRequest: it is none of this kind, asks for what the server does not have, or for another model.
    """
    try:
        asked = kind.model_validate_json(body)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        if isinstance(cause := first.get("ctx", {}).get("error"), BadRequest):
            raise cause from None
        field = ".".join(map(str, first["loc"]))
        said = _UNKNOWN if first["type"] == "extra_forbidden" else first["msg"]
        raise BadRequest(f"{field or 'body'}: {said}", field or None) from problem
    if asked.model != model:
        message = f"model: there is no {asked.model!r} here; this server has {model!r}"
        raise BadRequest(message, "model", 404, "model_not_found")
    return asked


def models(name: str, root: str) -> dict[str, Any]:
    """The list of the one model."""
    return {"object": "list", "data": [one_model(name, root)]}


def one_model(name: str, root: str) -> dict[str, Any]:
    """What is said of a model; `root` is the folder that it is served from, as vLLM says it too."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "sifthinker", "root": root or None}


class Writer:
    """Writes the reply to one request, whole or as the events of a stream."""

    def __init__(self, asked: Chat | Completion) -> None:
        """Gives the reply its id and its time."""
        self.chat = isinstance(asked, Chat)
        self.usage_at_the_end = asked.stream_options.include_usage
        kind = "chat.completion" if self.chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": f"{kind}.chunk" if self.chat and asked.stream else kind,
            "created": int(time.time()),
            "model": asked.model,
        }

    def whole(self, reply: Reply) -> dict[str, Any]:
        """The reply as one object."""
        said = (
            {"message": {"role": "assistant", "content": reply.text}} if self.chat else {"text": reply.text}
        )
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reply.finish_reason}
        return {**self._head, "choices": [choice], "usage": _usage(reply)}

    def first(self) -> str:
        """The event that opens a stream; a continuation has none."""
        return self._event({"role": "assistant", "content": ""}) if self.chat else ""

    def piece(self, text: str) -> str:
        """The event of a piece of the text."""
        return self._event({"content": text} if self.chat else text)

    def last(self, reply: Reply) -> str:
        """The events that close a stream."""
        closing = self._event({} if self.chat else "", reply.finish_reason)
        if self.usage_at_the_end:
            closing += event({**self._head, "choices": [], "usage": _usage(reply)})
        return closing + "data: [DONE]\n\n"

    def _event(self, said: Any, finish_reason: str | None = None) -> str:
        name = "delta" if self.chat else "text"
        choice = {"index": 0, name: said, "logprobs": None, "finish_reason": finish_reason}
        return event({**self._head, "choices": [choice]})


def event(body: Mapping[str, Any]) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _usage(reply: Reply) -> dict[str, int]:
    prompt, completion = reply.prompt_tokens, reply.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
