"""On SQLite, the Prefect server's transactions wait for their turn to write.

Prefect begins most of them as ones that only read. They read first (what an automation has counted, a deployment and its
schedules), and write then. Where anything else was written in between, SQLite refuses the write at once ("database is locked"),
however long the server is set to wait. What was asked is then answered with 503, a service's round is lost, or an event is
handled again: automations that had acted act a second time, and one that is refused four times never acts. A transaction that
is to write from its beginning waits instead, for as long as Prefect lets a locked database wait (a minute).
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

_BEGIN = "begin_transaction"
_prefects = AioSqliteConfiguration.begin_transaction


@asynccontextmanager
async def _begin(
    self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
) -> AsyncGenerator[AsyncSessionTransaction, None]:
    """Prefect's own, each for writing."""
    async with _prefects(self, session, with_for_update=True) as transaction:
        yield transaction


def wait_for_their_turn() -> None:
    """From now on, in this process. On PostgreSQL nothing changes."""
    setattr(AioSqliteConfiguration, _BEGIN, _begin)
