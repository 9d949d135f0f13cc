"""What registers something with the Prefect server, as a program: a line for each thing done, and 2 for a mistake of the user's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from prefect.client.orchestration import SyncPrefectClient, get_client

from sifthinker.core.errors import UserError


def run(register: Callable[[SyncPrefectClient], Iterator[str]]) -> None:
    """Registers everything, and says so."""
    with get_client(sync_client=True) as client:
        try:
            for line in register(client):
                print(line)
        except UserError as error:
            print(f"deploy: {error}", file=sys.stderr)
            sys.exit(2)
