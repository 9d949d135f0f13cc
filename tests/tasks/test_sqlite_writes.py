"""A transaction of the server on SQLite: what is written beside it waits, and does not undo it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tasks.own_process import printed

# Reads and then writes as Prefect does, while another connection writes in between.
COUNTED = """
import asyncio, sqlite3, sys
import sqlalchemy
from prefect.server.database import provide_database_interface
if sys.argv[2] == "ours":
    import tasks.runtime.event_order

def beside():
    with sqlite3.connect(sys.argv[1], timeout=0) as other:
        try:
            other.execute("UPDATE counts SET count = count + 10")
        except sqlite3.OperationalError as error:
            print("beside:", error)
    other.close()

async def count():
    text = sqlalchemy.text
    async with provide_database_interface().session_context() as session:
        await session.execute(text("CREATE TABLE counts (count INTEGER)"))
        await session.execute(text("INSERT INTO counts VALUES (0)"))
    try:
        async with provide_database_interface().session_context(begin_transaction=True) as session:
            await session.execute(text("SELECT count FROM counts"))
            beside()
            await session.execute(text("UPDATE counts SET count = count + 1"))
    except sqlalchemy.exc.OperationalError as error:
        print("count:", error.orig)
    async with provide_database_interface().session_context() as session:
        print((await session.execute(text("SELECT count FROM counts"))).scalar())

asyncio.run(count())
"""


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("whose", "said"),
    [
        ("ours", "beside: database is locked\n1\n"),
        ("prefects", "count: database is locked\n10\n"),  # once this fails, Prefect has mended it
    ],
)
def test_a_count_that_is_read_is_written_whatever_else_is_written_meanwhile(
    tmp_path: Path, whose: str, said: str
) -> None:
    file = tmp_path / "prefect.db"
    url = f"sqlite+aiosqlite:///{file}"
    made = printed(
        COUNTED, str(file), whose, home=tmp_path / "home", PREFECT_SERVER_DATABASE_CONNECTION_URL=url
    )
    assert made == said
