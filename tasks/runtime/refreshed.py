"""What a run has refreshed, kept with it on the Prefect server.

The rows of an ablation share stages, and each row is told to refresh them. Without this a row would make again what the row
before it has just made, and thereby take away what that row's evaluation was made from. A Retry goes on from there, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError

from tasks.runtime.stage import Order


@dataclass(frozen=True)
class Refreshed:
    """The artifacts that a run, in all of its parts and attempts, has made again because it was told to."""

    run: str  # its id

    def has(self, order: Order) -> bool:
        """Whether the artifact of an order is one of them."""
        with get_client(sync_client=True) as client:
            try:
                client.read_flow_run_input(UUID(self.run), _name(order))
            except PrefectHTTPStatusError as error:
                if error.response.status_code != httpx.codes.NOT_FOUND:
                    raise
                return False
        return True

    def add(self, order: Order) -> None:
        """Says that it is, once it is made."""
        with get_client(sync_client=True) as client:
            client.create_flow_run_input(UUID(self.run), _name(order), order.label)


def _name(order: Order) -> str:
    return f"refreshed-{order.place}-{order.key}".replace("_", "-")  # which Prefect refuses
