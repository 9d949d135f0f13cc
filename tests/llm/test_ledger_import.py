"""A ledger's file is taken into another ledger: nothing is paid again, and nothing is charged twice."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.commands.main import app
from sifthinker.core.errors import UserError
from sifthinker.llm.ledger import Failure, Reply
from sifthinker.llm.ledger_import import take_over
from sifthinker.llm.ledger_sqlite import SqliteLedger
from sifthinker.llm.usage import Usage
from tests.ledgers import Kind, counts
from tests.llm.test_ledger import COST, REPLY


def filled(path: Path, more: int = 0) -> Path:
    """A ledger with one call of each kind, `more` replies, and two batches."""
    ledger = SqliteLedger(path)
    for key in ("ok", "dead", "failed", "paid in vain", "reserved", *(f"more {n}" for n in range(more))):
        ledger.claim(key, "account", key.encode())
        if key == "ok" or key.startswith("more"):
            ledger.settle(key, REPLY, COST)
    ledger.fail("dead", Failure("content-filter", "no"), dead=True)
    ledger.fail("failed", Failure("exhausted", "502"), dead=False)
    ledger.charge("paid in vain", COST)
    ledger.plan_batch("open", "account", ["reserved"])
    ledger.plan_batch("over", "account", ["ok"])
    ledger.set_batch("over", "done")
    ledger._db.close()  # as a killed process leaves it
    return path


def test_what_a_file_holds_is_known_afterwards(kind, tmp_path):
    ledger = kind.open()
    assert take_over(filled(tmp_path / "old.sqlite", more=600), ledger) == (605, 0)
    assert counts(ledger) == {"ok": 601, "dead": 1, "failed": 3}
    assert ledger.usage("account") == Usage(602, 60_200, 24_080, 12_040, 150.5)
    assert ledger.claim("ok", "account", b"") == Reply("a text", "stop", "some-model", 100, 20, True, 1.5)
    assert ledger.claim("dead", "account", b"") == Failure("content-filter", "no")
    assert ledger.claim("reserved", "account", b"") == "mine"
    assert ledger.asked("ok") == b"ok"
    assert ledger.open_batches("account") == {"open": ("planned", ["reserved"])}


def test_a_second_time_everything_is_there(kind, tmp_path):
    ledger = kind.open()
    take_over(filled(tmp_path / "old.sqlite"), ledger)
    before = ledger.usage("account")
    assert take_over(tmp_path / "old.sqlite", ledger) == (0, 5)
    assert ledger.usage("account") == before


def test_what_is_there_already_stays(kind, tmp_path):
    ledger = kind.open()
    ledger.claim("ok", "account", b"")
    ledger.settle("ok", Reply("newer", "stop", "m", 1, 1), COST)
    assert take_over(filled(tmp_path / "old.sqlite"), ledger) == (4, 1)
    assert ledger.claim("ok", "account", b"").text == "newer"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        (b"no ledger at all" * 100, "cannot be read as a ledger"),
        (b"", "no such table"),
    ],
)
def test_a_file_that_is_no_ledger_is_a_clear_error(kind, tmp_path, content, says):
    if content is not None:
        (tmp_path / "old.sqlite").write_bytes(content)
    with pytest.raises(UserError, match=says):
        take_over(tmp_path / "old.sqlite", kind.open())


def test_the_command_takes_a_file_over_and_doctor_says_when_it_should_be(database, tmp_path, monkeypatch):
    from sifthinker.upkeep import ledger_checks

    file = filled(tmp_path / "calls.sqlite")
    monkeypatch.setenv("SIF_LEDGER", database)
    paid, old = ledger_checks.ledger(tmp_path)
    assert paid.verdict == "ok"
    assert re.fullmatch(r"PostgreSQL .*/postgres, [\d.]+ ms away: 0 calls paid, 0.00 in money", paid.found)
    assert old.verdict == "warning" and "holds 2 calls" in old.found and "sif import-ledger" in old.todo
    done = CliRunner().invoke(app, ["import-ledger", str(file)])
    assert done.exit_code == 0 and re.search(r"postgres +5 +0", done.output)
    again = CliRunner().invoke(app, ["import-ledger", str(file), "--json"])
    [found] = json.loads(again.stdout)
    assert (found["taken"], found["there"]) == (0, 5)
    [paid] = ledger_checks.ledger(tmp_path)
    assert "2 calls paid" in paid.found
    monkeypatch.delenv("SIF_LEDGER")
    [found] = ledger_checks.ledger(tmp_path)
    assert str(file) in found.found


def test_doctor_says_what_is_wrong_with_the_database(monkeypatch, tmp_path):
    from sifthinker.upkeep import findings, ledger_checks

    monkeypatch.setenv("SIF_LEDGER", "postgresql://me:s3cret@127.0.0.1:9/calls")
    [found] = findings.examine({"ledger": lambda: ledger_checks.ledger(tmp_path)})
    assert found.verdict == "error" and "cannot connect" in found.found
    assert "s3cret" not in found.found + found.todo


def test_a_file_is_taken_over_as_it_is_and_is_not_changed(kind, tmp_path):
    path = filled(tmp_path / "old.sqlite")
    take_over(path, kind.open())
    assert counts(Kind(path).open())["reserved"] == 2
