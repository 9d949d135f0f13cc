"""What a provider says of its batches: states, names, and a queue that is full."""

from __future__ import annotations

import json
from typing import Any

from sifthinker.llm import completion
from sifthinker.llm.http import Transient

OVER = {"completed", "failed", "expired", "cancelled"}  # states that a batch stays in
METADATA = "sifthinker_batch"  # its name in the ledger, given to the provider
_FULL = ("token_limit_exceeded", "enqueued token limit", "batch_limit", "too many batches", "queue limit")


def queue_full(state: dict[str, Any]) -> str:
    """What the provider says of a queue that is full, where that is why a batch failed; else ""."""
    errors = state.get("errors")
    if state.get("status") != "failed" or not errors:
        return ""
    said = completion.excerpt(json.dumps(errors).encode(), 500)
    return said if says_full(said) else ""


def says_full(words: str) -> bool:
    """Whether the account has too many tokens or batches in the queue already."""
    return any(full in words.lower() for full in _FULL)


def text(answer: dict[str, Any], name: str) -> str:
    """A text field of the provider's answer.

    Raises:
        Transient: the answer lacks the field.
    """
    value = answer.get(name)
    if not isinstance(value, str):
        raise Transient("unreadable", f"the provider's answer has no {name}: {str(answer)[:200]}")
    return value
