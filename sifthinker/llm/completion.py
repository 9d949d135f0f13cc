"""Reads a chat completion, whatever a server puts into it.

Servers that call themselves OpenAI-compatible differ in every field. What can be understood is brought into one form
here, before it reaches the ledger: text is a string that UTF-8 can hold, and tokens are sane integers. What cannot
be understood is `Unreadable`, which costs one request and never another one's reply.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass

MOST_TOKENS = 100_000_000  # of one call; a server that reports more does not count
_EXCERPT = 200  # characters
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\s]+")  # control characters, which a terminal would obey
_TEXTS = ("text", "output_text")
_THOUGHTS = ("thinking", "redacted_thinking", "reasoning", "reasoning_text", "reasoning_content", "thought")
# Names of other interfaces for why a reply ended, which gateways pass on.
_REASONS = {
    "max_tokens": "length",
    "model_length": "length",
    "safety": "content_filter",
    "prohibited_content": "content_filter",
    "blocklist": "content_filter",
    "sensitive": "content_filter",
    "function_call": "tool_calls",
    "end_turn": "stop",
}
_NAMES = ("code", "status", "status_code", "type")  # of an error
# What the words of an error's `code` or `type` stand for, where it is no number; the first one that is found counts.
_STATUSES = (
    (re.compile(r"insufficient.?(quota|balance|credit|fund)|billing|arrear|overdue|payment"), 402),
    (re.compile(r"api.?key|authenticat|unauthori[sz]ed"), 401),
    (re.compile(r"permission|forbidden|access.?denied"), 403),
    (re.compile(r"model.?not.?found|no.?such.?model"), 404),
    (re.compile(r"rate.?limit|too.?many|throttl|quota"), 429),
    (re.compile(r"overload|unavailable|server.?error|internal|time.?out|gateway|upstream"), 503),
)
# What a filter says of a request. "sensitive" alone does not count: names of models are case-sensitive, and an account
# can be flagged, too.
_FLAGGED = re.compile(
    r"(input|prompt|content|image).{0,20}flagged|moderation|content.?(filter|policy)|sensitive.?content|"
    r"data.?inspection"
)


class Unreadable(Exception):
    """The answer is no chat completion; the message says where."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one call, as its server counts them."""

    prompt: int
    cached: int  # of the prompt
    completion: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model said."""

    text: str
    finish_reason: str  # "unknown" where the server's is no text
    model: str  # "" where the server does not say


def parse(raw: bytes) -> object:
    """The JSON of an answer's body.

    Raises:
        Unreadable: it is none, or is nested too deep.
    """
    try:
        parsed: object = json.loads(raw)
    except RecursionError:
        raise Unreadable("the answer is JSON that is nested too deep") from None
    except ValueError as error:
        raise Unreadable(f"the answer is not JSON: {error}") from error
    return parsed


def read(answer: object) -> Completion:
    """The first choice of a chat completion.

    Raises:
        Unreadable: there is none, or its content is no text.
    """
    if not isinstance(answer, dict):
        raise Unreadable(f"the answer is {_kind(answer)}, not an object")
    choice = _choice(answer)
    if choice is None:
        raise Unreadable("it has no choices")
    message = choice.get("message")
    if not isinstance(message, dict):
        raise Unreadable(f"choices[0].message is {_kind(message)}, not an object")
    text, model = _text(message.get("content")), answer.get("model")
    if not text and isinstance(refusal := message.get("refusal"), str):
        text = refusal
    return Completion(
        plain(text),
        _reason(choice, message, text),
        plain(model)[:_EXCERPT] if isinstance(model, str) else "",
    )


def _reason(choice: dict[str, object], message: dict[str, object], text: str) -> str:
    """Why the reply ended, in OpenAI's words; a call of a tool without a text is one, whatever the server says."""
    if not text and (message.get("tool_calls") or message.get("function_call")):
        return "tool_calls"
    reason = choice.get("finish_reason") or "stop"
    if not isinstance(reason, str):
        return "unknown"
    return _REASONS.get(reason.lower(), plain(reason)[:_EXCERPT])


def tokens(answer: object) -> Tokens | None:
    """The usage that an answer reports; None where it reports none, or one that cannot be true."""
    found = counted(answer.get("usage")) if isinstance(answer, dict) else None
    return found if found and found.prompt else None  # no prompt has zero tokens: the server does not count


def counted(usage: object) -> Tokens | None:
    """A usage object's counts; None where one is missing, negative, absurd, or no number."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    details = usage.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Tokens(prompt, min(prompt, cached or 0), completion)


def fault(answer: object) -> int | None:
    """The HTTP status that an error inside the answer stands for; None where it holds no error."""
    answer = _alone(answer)
    if not isinstance(answer, dict):
        return None
    choice = _choice(answer)
    error = answer.get("error") if choice is None else choice.get("error")
    if not error:
        return None
    if not isinstance(error, dict):
        return 400
    for name in _NAMES:
        status = _count(error.get(name))
        if status is not None and 400 <= status <= 599:
            return status
    return next((status for pattern, status in _STATUSES if pattern.search(_names(error))), 400)


def names(raw: bytes) -> str:
    """What the error in a body calls itself, in small letters: its codes and types, and nothing that it may quote."""
    return _names(_error(raw))


def flagged(raw: bytes) -> bool:
    """Whether the error in a body says that a filter stopped the request: in its words, or by what it shows of it."""
    error = _error(raw)
    metadata, message = error.get("metadata"), error.get("message")
    if isinstance(metadata, dict) and (metadata.get("flagged_input") or metadata.get("reasons")):
        return True
    said = f"{_names(error)} {message.lower() if isinstance(message, str) else ''}"
    return bool(_FLAGGED.search(said))


def words(raw: bytes) -> str:
    """What a provider says in the body of an error: its message with its code, else the body as it is."""
    error = _error(raw)
    if not isinstance(message := error.get("message"), str):
        return excerpt(raw, 500)
    code = error.get("code") or error.get("type")
    named = f" ({code})" if isinstance(code, (str, int)) else ""
    return excerpt(f"{message}{named}".encode("utf-8", "replace"), 500)


def _error(raw: bytes) -> dict[str, object]:
    """The error in a body, one that is a text as its message; empty where none can be read."""
    try:
        answer = _alone(parse(raw))
    except Unreadable:
        return {}
    if not isinstance(answer, dict):
        return {}
    error = answer.get("error") or (_choice(answer) or {}).get("error") or answer
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else {}


def _names(error: dict[str, object]) -> str:
    named = (error.get(name) for name in _NAMES)
    return " ".join(value.lower() for value in named if isinstance(value, str))


def excerpt(raw: bytes, most: int = _EXCERPT) -> str:
    """The beginning of a body on one line, without what a terminal or a table would obey."""
    return _UNSAFE.sub(" ", raw[: 4 * most].decode("utf-8", "replace")).strip()[:most]


def plain(text: str) -> str:
    """The text with every lone surrogate (half a character) replaced: UTF-8 cannot hold one."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _alone(answer: object) -> object:
    """The object of a list that holds one: Gemini's errors come so."""
    return answer[0] if isinstance(answer, list) and len(answer) == 1 else answer


def _choice(answer: dict[str, object]) -> dict[str, object] | None:
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else None


def _text(content: object) -> str:
    """The text of a message's content; a list of parts is joined, without what the model only thought."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Unreadable(f"choices[0].message.content is {_kind(content)}, not a text")
    texts: list[str] = []
    for part in content:
        if isinstance(part, dict) and part.get("type") in _THOUGHTS:
            continue
        said = part.get("text") if isinstance(part, dict) and part.get("type", "text") in _TEXTS else part
        if not isinstance(said, str):
            raise Unreadable("choices[0].message.content has a part that is no text")
        texts.append(said)
    return "".join(texts)


def _count(value: object) -> int | None:
    """A number from 0 to `MOST_TOKENS`, also one that is written as a float or a text; else None."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        value = int(value)
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST_TOKENS:
        return None
    return value


def _kind(value: object) -> str:
    names = {
        bool: "a truth value",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "missing")
