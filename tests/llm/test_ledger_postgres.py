"""The ledger in a database: leases by the server's clock, connections that are lost, addresses, schema."""

from __future__ import annotations

import logging
import threading
import time

import psycopg
import pytest

from sifthinker import llm
from sifthinker.config import Api
from sifthinker.core.errors import UserError
from sifthinker.llm import bookkeeping, judge, ledger_postgres
from sifthinker.llm.ledger_postgres import PostgresLedger
from sifthinker.llm.postgres import Database
from sifthinker.llm.usage import Usage
from tests import evil
from tests.ledgers import Kind, counts
from tests.llm.test_ledger import COST, REPLY


def opened(url: str, lease: float = 30.0) -> PostgresLedger:
    return PostgresLedger(Database(url), lease)


def run(url: str, statement: str, *values: object) -> list[tuple[object, ...]]:
    with psycopg.connect(url, options="-c search_path=sifthinker", autocommit=True) as db:
        cursor = db.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def cut(url: str, ledger: PostgresLedger) -> None:
    """Ends the connection at the server, as a restart of it does."""
    run(url, "SELECT pg_terminate_backend(%s, 5000)", ledger._db.info.backend_pid)


def started(monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """Lets the server have started at another time."""
    start = "extract(epoch FROM pg_postmaster_start_time())::float8"

    def query(statement: str) -> str:
        return statement.replace(start, at).replace("?", "%s")

    monkeypatch.setattr(ledger_postgres, "_query", query)


# --- leases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("beat_ago", "claim"), [(5.0, "busy"), (29.0, "busy"), (31.0, "mine")])
def test_an_owner_lives_for_a_lease_after_its_last_heartbeat(database, monkeypatch, beat_ago, claim):
    here, there = opened(database), opened(database)
    there.claim("k", "account", b"")
    run(database, "UPDATE owners SET beat = beat - %s WHERE owner = %s", beat_ago, there.owner)
    started(monkeypatch, "0")
    monkeypatch.setattr("time.time", lambda: 0.0)  # the clock of the host does not matter
    assert here.claim("k", "account", b"") == claim


def test_after_a_start_of_the_server_every_owner_has_a_lease_to_be_heard_of(database, monkeypatch):
    """Owners that could not beat while it was away are not taken for dead."""
    here, there = opened(database), opened(database)
    there.claim("k", "account", b"")
    started(monkeypatch, "extract(epoch FROM clock_timestamp())::float8 - 29")
    run(database, "UPDATE owners SET beat = 0")
    assert here.claim("k", "account", b"") == "busy"


def test_an_owner_that_is_not_known_is_dead(database):
    here, there = opened(database), opened(database)
    there.claim("k", "account", b"")
    run(database, "DELETE FROM owners WHERE owner = %s", there.owner)
    assert here.claim("k", "account", b"") == "mine"


def test_a_lease_that_ran_out_is_noticed_by_the_next_heartbeat(database):
    ledger = opened(database)
    ledger.beat()
    assert ledger.lapses == 0
    run(database, "UPDATE owners SET beat = beat - 31")
    ledger.beat()
    assert ledger.lapses == 1
    run(database, "DELETE FROM owners")
    ledger.beat()
    assert ledger.lapses == 2


def test_a_lease_is_held_as_long_as_heartbeats_arrive(database):
    ledger = opened(database, lease=0.3)
    assert ledger.is_held
    time.sleep(0.25)
    assert not ledger.is_held
    ledger.beat()
    assert ledger.is_held


# --- connections that are lost ---------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(ledger_postgres, "_BLINK", 0.02)


def test_a_connection_that_is_lost_before_the_commit_is_made_anew_and_the_work_is_done_once(database):
    ledger, tries = opened(database), []

    def work() -> int:
        tries.append(1)
        ledger.claim("k", "account", b"")
        ledger.settle("k", REPLY, COST)
        if len(tries) == 1:
            cut(database, ledger)
        return len(tries)

    assert ledger.together(work) == 2
    assert counts(ledger) == {"ok": 1}
    assert ledger.usage("account") == COST


@pytest.mark.parametrize("arrived", [True, False])
def test_a_commit_whose_answer_was_lost_is_looked_up_and_not_charged_twice(database, monkeypatch, arrived):
    ledger = opened(database)
    ledger.claim("k", "account", b"")
    commit, tries = ledger._commit, []

    def loses_the_answer() -> None:
        tries.append(1)
        if len(tries) == 1:
            if arrived:
                commit()
            cut(database, ledger)
            ledger._execute("SELECT 1")  # fails as the commit would
        else:
            commit()

    monkeypatch.setattr(ledger, "_commit", loses_the_answer)
    ledger.together(lambda: ledger.settle("k", REPLY, COST))
    assert len(tries) == (1 if arrived else 2)
    assert ledger.usage("account") == COST


def test_a_database_that_is_away_is_waited_for_with_a_warning(postgres_server, database, caplog):
    caplog.set_level(logging.INFO)
    ledger = opened(database)
    postgres_server.stop()
    back = threading.Timer(0.3, postgres_server.start)
    back.start()
    try:
        assert ledger.together(lambda: ledger.claim("k", "account", b"")) == "mine"
    finally:
        back.join()
    [warning] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "nothing is asked or recorded until the ledger's database answers" in warning.getMessage()
    assert "answers again" in caplog.text


def test_a_database_that_stays_away_ends_the_run_and_a_run_that_is_told_to_end_does_not_wait(
    postgres_server, database, monkeypatch, caplog
):
    ledger, other = opened(database), opened(database)
    monkeypatch.setattr(ledger_postgres, "PATIENCE", 0.2)
    postgres_server.stop()
    try:
        with pytest.raises(UserError, match=r"database is away.*see to the database, then start again"):
            ledger.together(lambda: ledger.claim("k", "account", b""))
        monkeypatch.setattr(ledger_postgres, "PATIENCE", 600)
        other.hurry()
        with pytest.raises(UserError, match=r"database is away for 0 s"):
            other.together(lambda: other.claim("k", "account", b""))
        ledger.close()
        assert "reservations are not given back" in caplog.text
        with pytest.raises(
            UserError, match=r"PostgreSQL 127\.0\.0\.1:\d+/postgres: cannot connect to the ledger"
        ):
            opened(database)
    finally:
        postgres_server.start()


def test_a_host_that_hangs_in_a_transaction_gives_the_lock_back(database, monkeypatch):
    one, two = opened(database), opened(database)
    one._db.execute("SET idle_in_transaction_session_timeout = '100ms'")
    one._begin(True)  # and nothing more is heard of it
    assert two.together(lambda: two.claim("k", "account", b"")) == "mine"
    assert one.together(lambda: one.claim("k", "account", b"")) == "busy"


def test_a_lock_that_nobody_gives_back_is_trouble_and_says_so(database):
    one, two = opened(database), opened(database)
    two._db.execute("SET lock_timeout = '50ms'")
    with one.transaction(), pytest.raises(psycopg.OperationalError) as error:
        two.together(lambda: two.claim("k", "account", b""))
    assert "lock timeout" in two.trouble(error.value)
    assert two.trouble(ZeroDivisionError()) is None
    assert two.together(lambda: two.claim("k", "account", b"")) == "mine"


# --- schema ----------------------------------------------------------------------------------------------------------


def test_hosts_that_start_together_make_the_tables_once(database):
    found: list[PostgresLedger] = []
    each = [threading.Thread(target=lambda: found.append(opened(database))) for _ in range(6)]
    for thread in each:
        thread.start()
    for thread in each:
        thread.join()
    assert len(found) == 6
    assert run(database, "SELECT number FROM versions ORDER BY number") == [(1,), (2,), (3,)]


def test_a_schema_of_a_newer_release_is_refused(database):
    opened(database)
    run(database, "INSERT INTO versions (number) VALUES (99)")
    with pytest.raises(UserError, match=r"schema is version 99, this code knows 3.*Update this host"):
        opened(database)


def test_a_user_without_the_right_to_make_the_schema_is_told_which_right(database):
    run(database, "DROP ROLE IF EXISTS guest")
    run(database, "CREATE ROLE guest LOGIN")
    with pytest.raises(UserError, match=r"permission denied.*GRANT CREATE ON DATABASE"):
        opened(database.replace("postgres@", "guest@"))


# --- the address -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://me:s3cret@host/calls", "no address of a PostgreSQL database"),
        ("calls.sqlite", "no address of a PostgreSQL database"),
        ("postgresql://me:s3cret@host:port/calls", "its port is no number"),
        ("postgresql://me:s3cret/x@host:5432/calls", "in a password, @ is written %40, / %2F"),
        ("postgresql://me:0/s3cret@host:5432/calls", "in a password, @ is written %40, / %2F"),
        ("postgresql://me:s3cret@s3cret@host:5432/calls", "in a password, @ is written %40, / %2F"),
        ("postgresql://me:s3cret@host/calls?what=1", "unknown parameter"),
        ("postgresql://me:s3cret%zz@host/calls", "a % that stands for nothing"),
    ],
)
def test_an_address_that_cannot_be_read_is_named_and_not_shown(url, says):
    with pytest.raises(UserError) as error:
        Database(url)
    assert says in str(error.value)
    assert "SIF_LEDGER" in str(error.value)
    assert "s3cret" not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://me:s3cret@db.example:6000/calls", "PostgreSQL db.example:6000/calls"),
        ("postgres://me:s3cret@db.example/calls?sslmode=verify-full", "PostgreSQL db.example:5432/calls"),
        ("postgresql://me:s3cret@/calls?host=/run/pg", "PostgreSQL /run/pg:5432/calls"),
    ],
)
def test_a_database_is_named_without_its_password(url, name):
    database = Database(url)
    assert database.name == name
    assert database.words(ValueError("no s3cret here\nor there")) == "no *** here or there"


def test_a_password_is_in_no_message_of_a_connection_that_fails():
    with pytest.raises(UserError) as error:
        opened("postgresql://me:s3cret@127.0.0.1:9/calls")
    assert "cannot connect" in str(error.value)
    assert "s3cret" not in str(error.value) + repr(error.value.__cause__) + repr(error.value.__context__)


def test_a_database_is_known_by_whatever_address_and_whatever_user_and_another_one_is_told_apart(database):
    first = Database(database).identity()
    run(database, "CREATE ROLE plain LOGIN")
    run(database, "GRANT USAGE ON SCHEMA sifthinker TO plain")
    run(database, "GRANT SELECT ON ALL TABLES IN SCHEMA sifthinker TO plain")
    run(database, "CREATE DATABASE other")
    try:
        assert Database(database.replace("127.0.0.1", "localhost")).identity() == first
        assert Database(database.replace("postgres@", "plain@")).identity() == first
        assert Database(database.rpartition("/")[0] + "/other").identity() != first
    finally:
        run(database, "DROP DATABASE other")
        run(database, "DROP OWNED BY plain")
        run(database, "DROP ROLE plain")


def test_the_place_of_a_ledger_is_chosen_by_the_environment(database, tmp_path, monkeypatch):
    monkeypatch.delenv("SIF_LEDGER", raising=False)
    assert bookkeeping.place(tmp_path) == tmp_path / "calls.sqlite"
    with pytest.raises(UserError, match="SIF_LEDGER is not set here"):
        bookkeeping.open_ledger("shared")
    monkeypatch.setenv("SIF_LEDGER", database)
    assert bookkeeping.place(tmp_path) == "shared"
    bookkeeping.open_ledger("shared").close()
    assert Kind(tmp_path, database).run("SELECT count(*) FROM calls") == [(0,)]
    assert Usage() == opened(database).usage("account")


# --- a client on it --------------------------------------------------------------------------------------------------


def question(number: int) -> llm.Request:
    return judge.request("q", "a", f"answer number {number}.")


def test_what_is_answered_while_the_database_is_away_is_recorded_once_it_is_back(
    postgres_server, database, monkeypatch, caplog
):
    monkeypatch.setenv("SIF_LEDGER", database)

    def answer(number: int, _: bytes) -> evil.Answer:
        if number == 1:  # between its claim and its reply
            postgres_server.stop()
            threading.Timer(0.3, postgres_server.start).start()
        return 200, {}, evil.chat()

    with evil.serving(answer) as server:
        with llm.Client(Api(concurrency=1), "shared", server.url) as client:
            replies = client.ask_all(question(n) for n in range(4))
        assert all(isinstance(reply, llm.Reply) for reply in replies)
        with llm.Client(Api(), "shared", server.url) as client:
            assert all(reply.cached for reply in client.ask_all(question(n) for n in range(4)))
        assert len(server.asked) == 4
    assert "until the ledger's database answers" in caplog.text
    ledger = opened(database)
    assert (counts(ledger), ledger.usage(f"{Api().base_url} {Api().model}").calls) == ({"ok": 4}, 4)


def test_a_run_that_is_told_to_end_does_not_wait_for_the_database(postgres_server, database, monkeypatch):
    monkeypatch.setenv("SIF_LEDGER", database)
    with evil.serving(lambda *_: (200, {}, evil.chat())) as server:
        client = llm.Client(Api(concurrency=2), "shared", server.url)
        began = 0.0
        try:
            with pytest.raises(KeyboardInterrupt), client:
                assert isinstance(client.ask(question(0)), llm.Reply)
                postgres_server.stop()
                future = client.submit(question(1))
                time.sleep(0.2)
                assert not future.done()
                began = time.monotonic()
                raise KeyboardInterrupt
        finally:
            postgres_server.start()
        assert time.monotonic() - began < 12
        assert isinstance(future.exception(1), UserError)
