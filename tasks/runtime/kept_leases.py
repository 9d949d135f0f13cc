"""Places under a concurrency limit outlast a restart of the Prefect server.

The server's environment names this module: PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=tasks.runtime.kept_leases.

A run of a deployment with a concurrency limit (a night) holds a place, which the database counts, and a lease on it, which
Prefect keeps in the memory of the server and which the run renews every few minutes. A restarted server does not know the
lease. Prefect then ends the run as Crashed, or as Cancelled if it had not begun, although its place is still counted.
"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar
from uuid import UUID

from prefect.server.concurrency.lease_storage import memory


class ConcurrencyLeaseStorage(memory.ConcurrencyLeaseStorage):
    """Prefect's leases in memory, and those of the server before, which it takes to be valid.

    The place of such a lease is free again when its run ends: Prefect then looks the limit up in the run's deployment. A run
    whose process is gone is ended by the automations for lost runs (infra/lost_runs.py).
    """

    given_up: ClassVar[set[UUID]] = set()  # leases that ended under this server, a process with one storage

    async def renew_lease(self, lease_id: UUID, ttl: timedelta) -> bool:
        """Whether the lease is still valid: only one that ended under this server is not.

        Args:
            lease_id: of a run.
            ttl: for how long it is to be valid from now on.
        """
        return await super().renew_lease(lease_id, ttl) or lease_id not in self.given_up

    async def revoke_lease(self, lease_id: UUID) -> None:
        """Ends a lease whose place has been given back, by the end of its run or because it was not renewed.

        Args:
            lease_id: of a run.
        """
        self.given_up.add(lease_id)
        await super().revoke_lease(lease_id)
