"""What a provider says of its batches: states, names, a queue that is full, a batch that nobody should order again."""

from __future__ import annotations

import json
from typing import Any

from sifthinker.core.errors import UserError
from sifthinker.llm import completion
from sifthinker.llm.endpoint_errors import Transient

OVER = {"completed", "failed", "expired", "cancelled"}  # states that a batch stays in
METADATA = "sifthinker_batch"  # its name in the ledger, given to the provider
_FULL = ("token_limit_exceeded", "enqueued token limit", "batch_limit", "too many batches", "queue limit")


class BatchStopped(UserError):
    """A batch ended in a way that a person has to know of before another one is ordered."""


def said(state: dict[str, Any]) -> str:
    """The provider's words on what went wrong with a batch; empty where there are none."""
    errors = state.get("errors")
    return completion.excerpt(json.dumps(errors).encode(), 500) if errors else ""


def ended_badly(batch: str, state: dict[str, Any], left: int, of: int) -> BatchStopped | None:
    """Why nothing more is asked after a batch that left requests without an answer, if that is so.

    Ordering it again would undo what a person decided, or be refused for the same reason. A queue that was full, or
    a batch that did not get through in time, is no such reason.

    Args:
        batch: what it is called.
        state: its last one.
        left: requests without an answer.
        of: requests.
    """
    status, words = state.get("status"), said(state)
    if not left or queue_full(state) or status not in ("cancelled", "failed"):
        return None
    why = f": {words}" if words else ""
    told = f"{batch} {'was cancelled' if status == 'cancelled' else 'failed'} at the provider{why}\n"
    if status == "cancelled":
        return BatchStopped(
            f"{told}{of - left} of its {of} requests were answered, which is kept. Nothing more was asked: start again "
            "to order the others."
        )
    return BatchStopped(f"{told}Nothing more was asked: correct what it names, then start again.")


def queue_full(state: dict[str, Any]) -> str:
    """What the provider says of a queue that is full, where that is why a batch failed; else ""."""
    words = said(state) if state.get("status") == "failed" else ""
    return words if says_full(words) else ""


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
