"""Calls to models over HTTP: every request is paid once, within rate limits and a budget. `Client` is the door."""

from sifthinker.llm.client import (
    BudgetSpent,
    Client,
    Failure,
    Reply,
    Request,
    Unauthorized,
    Unreachable,
    image_url,
)

__all__ = ["BudgetSpent", "Client", "Failure", "Reply", "Request", "Unauthorized", "Unreachable", "image_url"]
