"""A transaction of the server on SQLite: what is written beside it waits, and does not undo it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
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
    """In a process of its own: our module changes Prefect's."""
    file = tmp_path / "prefect.db"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")},
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{file}",
    }
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, str(file), whose],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stdout == said, done.stderr
