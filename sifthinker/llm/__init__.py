"""Calls to models over HTTP: every request is paid once, within rate limits and a budget. `Client` is the door."""

from sifthinker.core.images import data_url as image_url
from sifthinker.llm.client import Client
from sifthinker.llm.costs import BudgetSpent
from sifthinker.llm.endpoint_errors import Unauthorized
from sifthinker.llm.ledger import Failure, Reply
from sifthinker.llm.patience import Unreachable
from sifthinker.llm.request import Request

__all__ = ["BudgetSpent", "Client", "Failure", "Reply", "Request", "Unauthorized", "Unreachable", "image_url"]
