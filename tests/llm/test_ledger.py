import os
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


def test_the_reservation_of_a_process_that_ended_unreaped_is_taken_over(path):
    """A container without an init process never reaps; the process id stays there for ever."""
    code = (
        "import sys, os; from pathlib import Path; from sifthinker.llm.ledger import Ledger;"
        "print(Ledger(Path(sys.argv[1])).claim('k', 'account', b''), flush=True); os._exit(0)"
    )
    ledger = Ledger(path)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    ) as ended:
        assert ended.stdout.read() == "mine\n"  # to the end of the process
        while psutil.Process(ended.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
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
