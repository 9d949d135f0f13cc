"""Each alert of the Prefect server has a connection of its own.

Prefect's webhooks share one pool of connections, and each closes all of it when its own call is over. Where two alerts are
under way at once, the first that ends cuts the other off: it arrives empty or not at all, and nobody asks again. A night
that fails with several runs sends several at once.
"""

from httpx import AsyncClient, AsyncHTTPTransport
from prefect.blocks.webhook import Webhook
from prefect.utilities.urls import SSRFProtectedAsyncHTTPTransport

TRIES = 3  # to connect; what has been sent is never sent again
PATIENCE = 30.0  # seconds for an answer; httpx waits for 5, and a webhook on the internet may take longer

_PREPARE, _CLIENT = "block_initialization", "_client"
assert hasattr(Webhook, _PREPARE), f"Prefect has changed: {Webhook.__name__} has no {_PREPARE}"


def _prepare(self: Webhook) -> None:
    """As Prefect's own, but with no other webhook's connections."""
    kind = AsyncHTTPTransport if self.allow_private_urls else SSRFProtectedAsyncHTTPTransport
    transport = kind(verify=self.verify, retries=TRIES - 1)
    setattr(self, _CLIENT, AsyncClient(transport=transport, timeout=PATIENCE))


def apart() -> None:
    """From now on, in this process."""
    setattr(Webhook, _PREPARE, _prepare)
