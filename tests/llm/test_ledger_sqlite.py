"""The ledger in a file: what it does about files, locks, and processes of its host."""

import functools
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sifthinker.core.errors import UserError
from sifthinker.llm.ledger_sqlite import SqliteLedger
from tests.ledgers import counts
from tests.llm.test_ledger import COST, REPLY


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.db"


def test_the_reservation_of_a_killed_process_is_taken_over(path):
    code = (
        "import sys, os, signal; from pathlib import Path; from sifthinker.llm.ledger_sqlite import SqliteLedger;"
        "print(SqliteLedger(Path(sys.argv[1])).claim('k', 'account', b''), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ledger = SqliteLedger(path)
    dead = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert dead.stdout == "mine\n"
    assert ledger.claim("k", "account", b"") == "mine"


def test_the_reservation_of_another_host_is_taken_over_when_its_heartbeat_stops(path):
    here = SqliteLedger(path, lease=0.2)
    there = SqliteLedger(path)
    there.owner = f"elsewhere:{os.getpid()}:1.00:x"
    there.beat()
    assert there.claim("k", "account", b"") == "mine"
    assert here.claim("k", "account", b"") == "busy"
    time.sleep(1.1)  # the verdict on an owner is remembered for a second
    assert here.claim("k", "account", b"") == "mine"


def test_a_file_that_is_no_ledger_is_a_clear_error(path):
    path.write_text("not a database, but long enough to be looked at" * 30)
    with pytest.raises(UserError, match=r"calls\.db: cannot open the ledger"):
        SqliteLedger(path)


def test_only_what_is_kept_waits_for_the_disk(path):
    ledger = SqliteLedger(path)
    synchronous = lambda: ledger._db.execute("PRAGMA synchronous").fetchone()[0]  # noqa: E731
    with ledger.transaction(durable=False):
        assert synchronous() == 1  # NORMAL
    with ledger.transaction():
        assert synchronous() == 2  # FULL
        with ledger.transaction(durable=False):
            assert synchronous() == 2
    ledger.claim("k", "account", b"")
    assert synchronous() == 1
    ledger.settle("k", REPLY, COST)
    assert synchronous() == 2
    ledger.beat()
    assert synchronous() == 1
    assert ledger._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_an_owner_is_its_host_process_start_and_connection(path):
    one, two = SqliteLedger(path), SqliteLedger(path)
    host, pid, started, connection = one.owner.rsplit(":", 3)
    assert (host, int(pid)) == (socket.gethostname(), os.getpid())
    assert float(started) == pytest.approx(psutil.Process().create_time(), abs=0.01)
    assert connection != two.owner.rsplit(":", 1)[1]


def reserved_by(path: Path, owner: str, key: str = "k") -> None:
    with sqlite3.connect(path) as db:
        db.execute(
            "INSERT OR REPLACE INTO calls (key, account, state, owner, at, request)"
            " VALUES (?, 'account', 'reserved', ?, 0, x'')",
            [key, owner],
        )


@pytest.mark.parametrize(
    ("process", "started_ago", "claim"),
    [
        ("this", 0.0, "busy"),
        ("this", 1.0, "busy"),  # the clock of the system moves
        ("this", -1.0, "busy"),
        ("this", 3.0, "mine"),  # the process id is used again
        ("this", -3.0, "mine"),
        ("none", 0.0, "mine"),
    ],
)
def test_an_owner_on_this_host_lives_as_long_as_its_process(path, process, started_ago, claim):
    ledger = SqliteLedger(path)
    pid = os.getpid() if process == "this" else 2**22 + 1  # above the largest process id
    owner = f"{socket.gethostname()}:{pid}:{psutil.Process().create_time() - started_ago:.2f}:x"
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO owners VALUES (?, 0)", [owner])  # its heartbeat does not matter
    reserved_by(path, owner)
    assert ledger.claim("k", "account", b"") == claim


@pytest.mark.parametrize(("beat_ago", "claim"), [(5.0, "busy"), (29.0, "busy"), (31.0, "mine")])
def test_an_owner_on_another_host_lives_for_a_lease_after_its_last_heartbeat(path, beat_ago, claim):
    ledger = SqliteLedger(path)
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO owners VALUES ('elsewhere:1:1.00:x', ?)", [time.time() - beat_ago])
    reserved_by(path, "elsewhere:1:1.00:x")
    assert ledger.claim("k", "account", b"") == claim


def test_an_owner_that_is_not_known_is_dead(path):
    ledger = SqliteLedger(path)
    reserved_by(path, ledger.owner[:-1] + "?")
    assert ledger.claim("k", "account", b"") == "mine"


def refusing(monkeypatch: pytest.MonkeyPatch, message: str, times: int) -> list[str]:
    """Lets SQLite refuse to turn WAL on, so many times; the statements that were refused."""
    refused: list[str] = []

    class Refusing(sqlite3.Connection):
        def execute(self, sql, *values):
            if "journal_mode" in sql and len(refused) < times:
                refused.append(sql)
                raise sqlite3.OperationalError(message)
            return super().execute(sql, *values)

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Refusing))
    return refused


def test_a_file_that_another_process_is_setting_up_is_waited_for(path, monkeypatch):
    """SQLite does not wait for the one that turns WAL on: it says at once that the file is locked."""
    refused = refusing(monkeypatch, "database is locked", 3)
    assert counts(SqliteLedger(path)) == {}
    assert len(refused) == 3


@pytest.mark.timeout(20)
def test_another_error_while_a_file_is_set_up_is_not_waited_for(path, monkeypatch):
    refused = refusing(monkeypatch, "disk I/O error", 10_000)
    with pytest.raises(UserError, match="disk I/O error"):
        SqliteLedger(path)
    assert len(refused) == 1


def test_a_file_that_stays_locked_is_given_up_after_a_minute(path, monkeypatch):
    refused = refusing(monkeypatch, "database is locked", 10_000)
    now = [1000.0]
    monkeypatch.setattr("sifthinker.llm.ledger_sqlite.time.monotonic", lambda: now[0])
    monkeypatch.setattr(
        "sifthinker.llm.ledger_sqlite.time.sleep", lambda _: now.__setitem__(0, now[0] + 20.1)
    )
    with pytest.raises(UserError, match="database is locked"):
        SqliteLedger(path)
    assert len(refused) == 4  # after 0, 20.1, 40.2 and 60.3 seconds


def test_what_to_do_with_a_damaged_ledger_is_said(path):
    path.write_text("not a database, but long enough to be looked at" * 30)
    advice = "It must be a SQLite file on a local disk; move a damaged one away (what it holds would be paid again)"
    with pytest.raises(
        UserError, match=rf"ledger of paid calls: file is not a database\. {re.escape(advice)}$"
    ):
        SqliteLedger(path)
