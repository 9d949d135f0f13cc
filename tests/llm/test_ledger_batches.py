"""Batches in every ledger: whose they are, and which requests may be ordered. Each test runs on a file and on PostgreSQL."""

from __future__ import annotations

import sqlite3
import threading

from sifthinker.llm.ledger import Ledger
from sifthinker.llm.ledger_import import take_over
from sifthinker.llm.ledger_sqlite import _OWNED, SqliteLedger
from tests.ledgers import Kind, counts
from tests.llm.test_ledger import COST, REPLY

KEYS = [f"k{n}" for n in range(1200)]  # more than go into one statement


def claimed(ledger: Ledger, keys: list[str] = KEYS) -> None:
    with ledger.transaction():
        for key in keys:
            assert ledger.claim(key, "account", b"") == "mine"


def test_a_batch_belongs_to_who_planned_it_until_that_one_is_gone(kind):
    one, two = kind.open(), kind.open()
    one.plan_batch("b", "account", ["k"])
    assert two.take_batches("account") == {}
    assert not two.set_batch("b", "done")
    assert not two.replan_batch("b", "c")
    assert one.take_batches("account") == {}  # it has it already
    assert one.set_batch("b", "sent 17")
    one.close()
    assert two.take_batches("another") == {}
    assert two.take_batches("account") == {"b": ("sent 17", ["k"])}
    assert two.take_batches("account") == {}
    assert two.set_batch("b", "done")
    assert kind.open().open_batches("account") == {}


def test_one_of_many_takes_up_a_batch(kind):
    one = kind.open()
    one.plan_batch("b", "account", ["k"])
    one.close()
    heirs = [kind.open() for _ in range(4)]
    assert [list(heir.take_batches("account")) for heir in heirs] == [["b"], [], [], []]


def test_a_batch_that_is_ordered_again_is_the_same_requests_by_another_name(kind):
    ledger = kind.open()
    ledger.plan_batch("b", "account", KEYS)
    ledger.set_batch("b", "sent 17")
    assert ledger.replan_batch("b", "c")
    assert not ledger.replan_batch("b", "d")
    assert ledger.open_batches("account") == {"c": ("planned", KEYS)}


def test_what_may_be_ordered_is_reserved_by_oneself_and_in_no_open_batch(kind):
    one, two = kind.open(), kind.open()
    claimed(one)
    claimed(two, ["two's"])
    one.settle("k3", REPLY, COST)
    one.release("k4")
    one.plan_batch("done", "account", ["k5"])
    one.set_batch("done", "done")
    one.plan_batch("open", "account", ["k6"])
    two.plan_batch("another's", "account", ["k1199"])
    free = [key for key in KEYS if key not in ("k3", "k4", "k6", "k1199")]
    assert one.to_order("account", [*KEYS, "two's", "unknown"]) == free
    assert two.to_order("account", [*KEYS, "two's"]) == ["two's"]


def test_requests_in_a_batch_are_reserved_for_its_new_owner_whoever_had_them(kind):
    one, two = kind.open(), kind.open()
    claimed(one)
    one.settle("k0", REPLY, COST)
    one.release("k1")
    two.hold(KEYS[:-1])
    assert counts(one) == {"ok": 1, "reserved": 1199}
    assert one.claim("k1", "account", b"") == one.claim("k1198", "account", b"") == "busy"
    assert one.claim("k1199", "account", b"") == "mine"
    assert one.to_order("account", KEYS) == ["k1199"]


OLD = """
CREATE TABLE batches (id TEXT PRIMARY KEY, account TEXT NOT NULL, state TEXT NOT NULL,
    keys BLOB NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
"""  # as earlier releases made it


def of_an_earlier_release(kind: Kind) -> None:
    """A ledger whose batches have no owners, with a batch in it."""
    ledger = kind.open()
    ledger.plan_batch("b", "account", ["k"])
    ledger.set_batch("b", "sent 17")
    ledger.close()
    [(keys,)] = kind.run("SELECT keys FROM batches")
    if kind.url:
        kind.run("ALTER TABLE batches DROP COLUMN owner")
        kind.run("DELETE FROM versions WHERE number = 2")
        return
    with sqlite3.connect(kind.path) as db:
        db.execute("DROP TABLE batches")
        db.execute(OLD)
        db.execute("INSERT INTO batches VALUES ('b', 'account', 'sent 17', ?, 0)", [keys])


def test_a_ledger_of_an_earlier_release_is_opened_as_it_is(kind):
    of_an_earlier_release(kind)
    ledger = kind.open()
    assert ledger.take_batches("account") == {"b": ("sent 17", ["k"])}
    ledger.plan_batch("c", "account", ["l"])
    assert list(kind.open().open_batches("account")) == ["b", "c"]


def test_processes_that_open_an_old_file_together_all_get_it(tmp_path, monkeypatch):
    kind = Kind(tmp_path / "calls.db")
    of_an_earlier_release(kind)
    both = threading.Barrier(2, timeout=20)

    class Slow(sqlite3.Connection):
        """Looks at the columns, and adds one once the other has looked, too."""

        def execute(self, sql, *values):
            if sql == _OWNED:
                both.wait()
            return super().execute(sql, *values)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **{**k, "factory": Slow}))
    found: list[SqliteLedger] = []
    each = [threading.Thread(target=lambda: found.append(SqliteLedger(kind.path))) for _ in range(2)]
    for thread in each:
        thread.start()
    for thread in each:
        thread.join()
    assert [list(ledger.open_batches("account")) for ledger in found] == [["b"], ["b"]]


def test_a_batch_of_a_file_that_is_taken_into_another_ledger_is_nobodys(kind, tmp_path):
    old = SqliteLedger(tmp_path / "old.sqlite")
    old.plan_batch("b", "account", ["k"])
    old._db.close()  # as a killed process leaves it
    ledger = kind.open()
    take_over(tmp_path / "old.sqlite", ledger)
    assert ledger.take_batches("account") == {"b": ("planned", ["k"])}
