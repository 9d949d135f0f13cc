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
from sifthinker.llm.ledger import Failure, Ledger, Reply
from sifthinker.llm.usage import Budget, Usage
from tests.ledgers import counts

REPLY = Reply("a text", "stop", "some-model", 100, 20, seconds=1.5)
COST = Usage(1, 100, 40, 20, 0.25)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.db"


def test_a_recorded_reply_is_found_by_every_later_connection(path):
    first = Ledger(path)
    assert first.claim("k", "account", b"asked") == "mine"
    first.settle("k", REPLY, COST)
    first.close()
    second = Ledger(path)
    assert second.claim("k", "account", b"asked") == Reply("a text", "stop", "some-model", 100, 20, True, 1.5)
    assert counts(second) == {"ok": 1}


def test_a_reservation_keeps_others_out_until_it_is_given_back(path):
    one, two = Ledger(path), Ledger(path)
    assert one.claim("k", "account", b"") == "mine"
    assert two.claim("k", "account", b"") == "busy"
    one.release("k")
    assert two.claim("k", "account", b"") == "mine"
    two.close()  # gives back what it holds
    assert one.claim("k", "account", b"") == "mine"


def test_the_reservation_of_a_killed_process_is_taken_over(path):
    code = (
        "import sys, os, signal; from pathlib import Path; from sifthinker.llm.ledger import Ledger;"
        "print(Ledger(Path(sys.argv[1])).claim('k', 'account', b''), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ledger = Ledger(path)
    dead = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert dead.stdout == "mine\n"
    assert ledger.claim("k", "account", b"") == "mine"


def test_the_reservation_of_another_host_is_taken_over_when_its_heartbeat_stops(path):
    here = Ledger(path, lease=0.2)
    there = Ledger(path)
    there.owner = f"elsewhere:{os.getpid()}:1.00:x"
    there.beat()
    assert there.claim("k", "account", b"") == "mine"
    assert here.claim("k", "account", b"") == "busy"
    time.sleep(1.1)  # the verdict on an owner is remembered for a second
    assert here.claim("k", "account", b"") == "mine"


def test_a_dead_request_is_not_asked_again_until_it_is_revived(path):
    ledger = Ledger(path)
    ledger.claim("k", "account", b"")
    ledger.fail("k", Failure("content-filter", "no"), dead=True, usage=COST)
    assert ledger.claim("k", "account", b"") == Failure("content-filter", "no")
    assert ledger.usage("account") == COST  # refused, and paid for
    assert ledger.revive("bad-request") == 0
    assert ledger.revive("content-filter") == 1
    assert ledger.claim("k", "account", b"") == "mine"


def test_what_failed_on_the_way_is_asked_again(path):
    ledger = Ledger(path)
    ledger.claim("k", "account", b"")
    ledger.fail("k", Failure("exhausted", "502"), dead=False)
    assert ledger.claim("k", "account", b"") == "mine"


@pytest.mark.parametrize(
    ("budget", "claim"),
    [
        (Budget(), "mine"),  # none
        (Budget(tokens=121), "mine"),  # 120 are used
        (Budget(tokens=120), "spent"),
        (Budget(money=0.26), "mine"),
        (Budget(money=0.25), "spent"),
        (Budget(tokens=0), "spent"),
    ],
)
def test_a_budget_stops_what_would_have_to_be_paid_and_nothing_else(path, budget, claim):
    ledger = Ledger(path)
    ledger.claim("k", "account", b"")
    ledger.settle("k", REPLY, COST)
    assert ledger.claim("new", "account", b"", budget) == claim
    assert isinstance(ledger.claim("k", "account", b"", budget), Reply)  # known, so free
    assert ledger.claim("other", "another account", b"", Budget(tokens=1)) == "mine"


def test_operations_in_one_transaction_are_all_kept_or_none(path):
    ledger = Ledger(path)
    with pytest.raises(ZeroDivisionError), ledger.transaction():
        ledger.claim("k", "account", b"")
        raise ZeroDivisionError
    assert counts(ledger) == {}


def test_a_part_of_a_transaction_that_fails_is_undone_alone(path):
    ledger = Ledger(path)
    with ledger.transaction():
        with ledger.apart():
            ledger.claim("good", "account", b"")
            ledger.settle("good", REPLY, COST)
        with pytest.raises(ZeroDivisionError), ledger.apart():
            ledger.claim("bad", "account", b"")
            ledger.settle("bad", REPLY, COST)
            raise ZeroDivisionError
    assert counts(ledger) == {"ok": 1}
    assert ledger.usage("account") == COST


def test_what_an_unusable_reply_cost_is_charged_and_the_request_stays_reserved(path):
    ledger = Ledger(path)
    ledger.claim("k", "account", b"asked")
    ledger.charge("k", Usage(1, 100, 0, 20, 0.25, 120))
    assert counts(ledger) == {"reserved": 1}
    assert ledger.usage("account") == Usage(1, 100, 0, 20, 0.25, 120)
    assert ledger.asked("k") == b"asked"
    assert ledger.asked("unknown") == b""


def test_a_file_that_is_no_ledger_is_a_clear_error(path):
    path.write_text("not a database, but long enough to be looked at" * 30)
    with pytest.raises(UserError, match=r"calls\.db: cannot open the ledger"):
        Ledger(path)


def test_requests_and_replies_are_stored_compressed(path):
    ledger = Ledger(path)
    ledger.claim("k", "account", b"the same words " * 1000)
    ledger.settle("k", Reply("again and " * 1000, "stop", "m", 1, 1), COST)
    ledger.close()
    with sqlite3.connect(path) as db:
        (size,) = db.execute("SELECT length(request) + length(reply) FROM calls").fetchone()
    assert size < 500


def test_a_call_costs_less_than_a_millisecond(path):
    ledger = Ledger(path)
    request, reply = os.urandom(1000).hex().encode(), Reply("word " * 300, "stop", "m", 1, 1)
    began = time.process_time()
    for start in range(0, 2000, 16):  # commits are shared, as the engine shares them
        with ledger.transaction(durable=False):
            for number in range(start, start + 16):
                ledger.claim(str(number), "account", request)
        with ledger.transaction():
            for number in range(start, start + 16):
                ledger.settle(str(number), reply, COST)
    each = (time.process_time() - began) / 2000 * 1000
    print(f"{each:.3f} ms of processor a call")
    assert each < 1


def test_costs_add_up_field_by_field_over_calls_transactions_and_connections(path):
    ledger = Ledger(path)
    for number in range(2):
        ledger.claim(f"k{number}", "account", b"")
        ledger.settle(f"k{number}", REPLY, COST)
    with ledger.transaction():
        ledger.claim("k2", "account", b"")
        ledger.charge("k2", Usage(2, 7, 3, 5, 0.5, 12))
        ledger.charge("k2", Usage(1, 1, 1, 1, 0.125, 2))
        together = Usage(5, 208, 84, 46, 1.125, 14)
        assert ledger.usage("account") == together  # what the open transaction adds is counted
        ledger.claim("x", "another", b"")
        ledger.settle("x", REPLY, COST)
        assert ledger.usage("another") == COST
    assert ledger.usage("account") == together
    ledger.charge("k2", Usage(1, 1, 0, 0, 0.0, 1))
    assert Ledger(path).usage("account") == together + Usage(1, 1, 0, 0, 0.0, 1)
    assert Ledger(path).usage("another") == COST
    assert ledger.usage("nobody") == Usage()


def test_a_row_keeps_what_its_own_calls_cost(path):
    ledger = Ledger(path)
    ledger.claim("k", "account", b"")
    ledger.charge("k", Usage(1, 100, 40, 20, 0.25))
    ledger.settle("k", REPLY, Usage(1, 10, 4, 2, 0.5))
    with sqlite3.connect(path) as db:
        row = db.execute(
            "SELECT state, prompt_tokens, cached_tokens, completion_tokens, money, owner, at FROM calls"
        )
        *kept, at = row.fetchone()
    assert kept == ["ok", 110, 44, 22, 0.75, ledger.owner]
    assert abs(time.time() - at) < 60
    assert ledger.claim("k", "account", b"").prompt_tokens == 110


def test_a_call_that_was_not_made_costs_nothing(path):
    ledger = Ledger(path)
    ledger.claim("k", "account", b"")
    ledger.fail("k", Failure("exhausted", "502"), dead=False)
    assert ledger.usage("account") == Usage()
    assert counts(ledger) == {"failed": 1}


def test_costs_of_a_transaction_that_fails_are_forgotten(path):
    ledger = Ledger(path)
    ledger.claim("k", "account", b"")
    with pytest.raises(ZeroDivisionError), ledger.transaction():
        assert ledger.is_open
        ledger.charge("k", COST)
        with ledger.transaction():
            ledger.charge("k", COST)
        assert ledger.is_open  # the inner one commits nothing
        raise ZeroDivisionError
    assert not ledger.is_open
    assert ledger.usage("account") == Usage()
    ledger.charge("k", COST)
    assert ledger.usage("account") == Ledger(path).usage("account") == COST


def test_only_what_is_kept_waits_for_the_disk(path):
    ledger = Ledger(path)
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


def test_a_closed_ledger_gives_back_its_own_reservations_and_no_others(path):
    one, two = Ledger(path), Ledger(path)
    one.claim("one", "account", b"")
    one.claim("kept", "account", b"")
    one.settle("kept", REPLY, COST)
    two.claim("two", "account", b"")
    one.close()
    assert counts(two) == {"failed": 1, "ok": 1, "reserved": 1}
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT owner FROM owners").fetchall() == [(two.owner,)]
    two.release("kept")  # not reserved
    two.release("two")
    assert counts(two) == {"failed": 2, "ok": 1}


def test_a_reservation_is_released_by_its_owner_alone(path):
    one, two = Ledger(path), Ledger(path)
    one.claim("k", "account", b"")
    two.release("k")
    assert counts(one) == {"reserved": 1}


def test_a_reservation_that_is_taken_over_belongs_to_the_new_owner(path):
    one, two = Ledger(path), Ledger(path)
    one.claim("k", "account", b"")
    one.fail("k", Failure("timeout", "slow"), dead=False)
    assert two.claim("k", "account", b"") == "mine"
    assert one.claim("k", "account", b"") == "busy"
    two.settle("k", REPLY, COST)
    assert one.claim("k", "account", b"").cached


def test_an_owner_is_its_host_process_start_and_connection(path):
    one, two = Ledger(path), Ledger(path)
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
    ledger = Ledger(path)
    pid = os.getpid() if process == "this" else 2**22 + 1  # above the largest process id
    owner = f"{socket.gethostname()}:{pid}:{psutil.Process().create_time() - started_ago:.2f}:x"
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO owners VALUES (?, 0)", [owner])  # its heartbeat does not matter
    reserved_by(path, owner)
    assert ledger.claim("k", "account", b"") == claim


@pytest.mark.parametrize(("beat_ago", "claim"), [(5.0, "busy"), (29.0, "busy"), (31.0, "mine")])
def test_an_owner_on_another_host_lives_for_a_lease_after_its_last_heartbeat(path, beat_ago, claim):
    ledger = Ledger(path)
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO owners VALUES ('elsewhere:1:1.00:x', ?)", [time.time() - beat_ago])
    reserved_by(path, "elsewhere:1:1.00:x")
    assert ledger.claim("k", "account", b"") == claim


def test_an_owner_that_is_not_known_is_dead(path):
    ledger = Ledger(path)
    reserved_by(path, ledger.owner[:-1] + "?")
    assert ledger.claim("k", "account", b"") == "mine"


def test_a_batch_is_open_until_it_is_done_in_the_order_of_planning(path):
    ledger = Ledger(path)
    assert ledger.open_batches("account") == {}
    for name in ("b", "a", "c"):
        ledger.plan_batch(name, "account", [f"{name}1", f"{name}2"])
    ledger.plan_batch("other", "another", ["x"])
    ledger.set_batch("a", "sent 17")
    ledger.set_batch("c", "done")
    found = Ledger(path).open_batches("account")
    assert found == {"b": ("planned", ["b1", "b2"]), "a": ("sent 17", ["a1", "a2"])}
    assert list(found) == ["b", "a"]
    assert ledger.open_batches("another") == {"other": ("planned", ["x"])}


def test_all_dead_requests_are_revived_where_no_kind_is_named(path):
    ledger = Ledger(path)
    for key, kind in (("a", "content-filter"), ("b", "bad-request")):
        ledger.claim(key, "account", b"")
        ledger.fail(key, Failure(kind, "no"), dead=True)
    assert counts(ledger) == {"dead": 2}
    assert ledger.revive() == 2
    assert counts(ledger) == {"failed": 2}


def test_only_a_claimed_request_can_be_finished(path):
    ledger = Ledger(path)
    with pytest.raises(AssertionError, match="only a claimed request"):
        ledger.settle("k", REPLY, COST)
    assert ledger.usage("account") == Usage()


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
    assert counts(Ledger(path)) == {}
    assert len(refused) == 3


@pytest.mark.timeout(20)
def test_another_error_while_a_file_is_set_up_is_not_waited_for(path, monkeypatch):
    refused = refusing(monkeypatch, "disk I/O error", 10_000)
    with pytest.raises(UserError, match="disk I/O error"):
        Ledger(path)
    assert len(refused) == 1


def test_a_file_that_stays_locked_is_given_up_after_a_minute(path, monkeypatch):
    refused = refusing(monkeypatch, "database is locked", 10_000)
    now = [1000.0]
    monkeypatch.setattr("sifthinker.llm.ledger.time.monotonic", lambda: now[0])
    monkeypatch.setattr("sifthinker.llm.ledger.time.sleep", lambda _: now.__setitem__(0, now[0] + 20.1))
    with pytest.raises(UserError, match="database is locked"):
        Ledger(path)
    assert len(refused) == 4  # after 0, 20.1, 40.2 and 60.3 seconds


def test_what_to_do_with_a_damaged_ledger_is_said(path):
    path.write_text("not a database, but long enough to be looked at" * 30)
    advice = "It must be a SQLite file on a local disk; move a damaged one away (what it holds would be paid again)"
    with pytest.raises(
        UserError, match=rf"ledger of paid calls: file is not a database\. {re.escape(advice)}$"
    ):
        Ledger(path)
