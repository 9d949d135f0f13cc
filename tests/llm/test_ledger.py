"""What every ledger does: each test runs on a file and on a PostgreSQL server."""

import os
import time

import pytest

from sifthinker.llm.ledger import Failure, Reply
from sifthinker.llm.usage import Budget, Usage
from tests.ledgers import counts

REPLY = Reply("a text", "stop", "some-model", 100, 20, seconds=1.5)
COST = Usage(1, 100, 40, 20, 0.25)


def test_a_recorded_reply_is_found_by_every_later_connection(kind):
    first = kind.open()
    assert first.claim("k", "account", b"asked") == "mine"
    first.settle("k", REPLY, COST)
    first.close()
    second = kind.open()
    assert second.claim("k", "account", b"asked") == Reply("a text", "stop", "some-model", 100, 20, True, 1.5)
    assert counts(second) == {"ok": 1}


def test_a_reservation_keeps_others_out_until_it_is_given_back(kind):
    one, two = kind.open(), kind.open()
    assert one.claim("k", "account", b"") == "mine"
    assert two.claim("k", "account", b"") == "busy"
    one.release("k")
    assert two.claim("k", "account", b"") == "mine"
    two.close()  # gives back what it holds
    assert one.claim("k", "account", b"") == "mine"


def test_a_dead_request_is_not_asked_again_until_it_is_revived(kind):
    ledger = kind.open()
    ledger.claim("k", "account", b"")
    ledger.fail("k", Failure("content-filter", "no"), dead=True, usage=COST)
    assert ledger.claim("k", "account", b"") == Failure("content-filter", "no")
    assert ledger.usage("account") == COST  # refused, and paid for
    assert ledger.revive("bad-request") == 0
    assert ledger.revive("content-filter") == 1
    assert ledger.claim("k", "account", b"") == "mine"


def test_what_failed_on_the_way_is_asked_again(kind):
    ledger = kind.open()
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
def test_a_budget_stops_what_would_have_to_be_paid_and_nothing_else(kind, budget, claim):
    ledger = kind.open()
    ledger.claim("k", "account", b"")
    ledger.settle("k", REPLY, COST)
    assert ledger.claim("new", "account", b"", budget) == claim
    assert isinstance(ledger.claim("k", "account", b"", budget), Reply)  # known, so free
    assert ledger.claim("other", "another account", b"", Budget(tokens=1)) == "mine"


def test_operations_in_one_transaction_are_all_kept_or_none(kind):
    ledger = kind.open()
    with pytest.raises(ZeroDivisionError), ledger.transaction():
        ledger.claim("k", "account", b"")
        raise ZeroDivisionError
    assert counts(ledger) == {}


def test_a_part_of_a_transaction_that_fails_is_undone_alone(kind):
    ledger = kind.open()
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


def test_what_an_unusable_reply_cost_is_charged_and_the_request_stays_reserved(kind):
    ledger = kind.open()
    ledger.claim("k", "account", b"asked")
    ledger.charge("k", Usage(1, 100, 0, 20, 0.25, 120))
    assert counts(ledger) == {"reserved": 1}
    assert ledger.usage("account") == Usage(1, 100, 0, 20, 0.25, 120)
    assert ledger.asked("k") == b"asked"
    assert ledger.asked("unknown") == b""


def test_requests_and_replies_are_stored_compressed(kind):
    ledger = kind.open()
    ledger.claim("k", "account", b"the same words " * 1000)
    ledger.settle("k", Reply("again and " * 1000, "stop", "m", 1, 1), COST)
    ledger.close()
    [(size,)] = kind.run("SELECT length(request) + length(reply) FROM calls")
    assert size < 500


def test_a_call_costs_less_than_a_millisecond(kind):
    ledger = kind.open()
    request, reply = os.urandom(1000).hex().encode(), Reply("word " * 300, "stop", "m", 1, 1)
    began = time.process_time()
    for start in range(0, 800, 16):  # commits are shared, as the engine shares them
        with ledger.transaction(durable=False):
            for number in range(start, start + 16):
                ledger.claim(str(number), "account", request)
        with ledger.transaction():
            for number in range(start, start + 16):
                ledger.settle(str(number), reply, COST)
    each = (time.process_time() - began) / 800 * 1000
    print(f"{each:.3f} ms of processor a call")
    assert each < 1


def test_costs_add_up_field_by_field_over_calls_transactions_and_connections(kind):
    ledger = kind.open()
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
    assert kind.open().usage("account") == together + Usage(1, 1, 0, 0, 0.0, 1)
    assert kind.open().usage("another") == COST
    assert ledger.usage("nobody") == Usage()


def test_a_row_keeps_what_its_own_calls_cost(kind):
    ledger = kind.open()
    ledger.claim("k", "account", b"")
    ledger.charge("k", Usage(1, 100, 40, 20, 0.25))
    ledger.settle("k", REPLY, Usage(1, 10, 4, 2, 0.5))
    [(*kept, at)] = kind.run(
        "SELECT state, prompt_tokens, cached_tokens, completion_tokens, money, owner, at FROM calls"
    )
    assert kept == ["ok", 110, 44, 22, 0.75, ledger.owner]
    assert abs(time.time() - at) < 60
    assert ledger.claim("k", "account", b"").prompt_tokens == 110


def test_a_call_that_was_not_made_costs_nothing(kind):
    ledger = kind.open()
    ledger.claim("k", "account", b"")
    ledger.fail("k", Failure("exhausted", "502"), dead=False)
    assert ledger.usage("account") == Usage()
    assert counts(ledger) == {"failed": 1}


def test_costs_of_a_transaction_that_fails_are_forgotten(kind):
    ledger = kind.open()
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
    assert ledger.usage("account") == kind.open().usage("account") == COST


def test_a_closed_ledger_gives_back_its_own_reservations_and_no_others(kind):
    one, two = kind.open(), kind.open()
    one.claim("one", "account", b"")
    one.claim("kept", "account", b"")
    one.settle("kept", REPLY, COST)
    two.claim("two", "account", b"")
    one.close()
    assert counts(two) == {"failed": 1, "ok": 1, "reserved": 1}
    assert kind.run("SELECT owner FROM owners") == [(two.owner,)]
    two.release("kept")  # not reserved
    two.release("two")
    assert counts(two) == {"failed": 2, "ok": 1}


def test_a_reservation_is_released_by_its_owner_alone(kind):
    one, two = kind.open(), kind.open()
    one.claim("k", "account", b"")
    two.release("k")
    assert counts(one) == {"reserved": 1}


def test_a_reservation_that_is_taken_over_belongs_to_the_new_owner(kind):
    one, two = kind.open(), kind.open()
    one.claim("k", "account", b"")
    one.fail("k", Failure("timeout", "slow"), dead=False)
    assert two.claim("k", "account", b"") == "mine"
    assert one.claim("k", "account", b"") == "busy"
    two.settle("k", REPLY, COST)
    assert one.claim("k", "account", b"").cached


def test_a_batch_is_open_until_it_is_done_in_the_order_of_planning(kind):
    ledger = kind.open()
    assert ledger.open_batches("account") == {}
    for name in ("b", "a", "c"):
        ledger.plan_batch(name, "account", [f"{name}1", f"{name}2"])
    ledger.plan_batch("other", "another", ["x"])
    ledger.set_batch("a", "sent 17")
    ledger.set_batch("c", "done")
    found = kind.open().open_batches("account")
    assert found == {"b": ("planned", ["b1", "b2"]), "a": ("sent 17", ["a1", "a2"])}
    assert list(found) == ["b", "a"]
    assert ledger.open_batches("another") == {"other": ("planned", ["x"])}


def test_all_dead_requests_are_revived_where_no_kind_is_named(kind):
    ledger = kind.open()
    for key, kind in (("a", "content-filter"), ("b", "bad-request")):
        ledger.claim(key, "account", b"")
        ledger.fail(key, Failure(kind, "no"), dead=True)
    assert counts(ledger) == {"dead": 2}
    assert ledger.revive() == 2
    assert counts(ledger) == {"failed": 2}


def test_what_was_refused_is_asked_again_by_who_wants_it_so(kind):
    ledger = kind.open()
    for key, failure in (("a", Failure("content-filter", "no")), ("b", Failure("bad-request", "no"))):
        ledger.claim(key, "account", b"")
        ledger.fail(key, failure, dead=True)
    assert ledger.claim("a", "account", b"", again=("bad-request",)) == Failure("content-filter", "no")
    assert ledger.claim("b", "account", b"") == Failure("bad-request", "no")
    assert ledger.claim("b", "account", b"", again=("bad-request",)) == "mine"
    ledger.settle("b", REPLY, COST)
    assert ledger.claim("b", "account", b"", again=("bad-request",)).text == REPLY.text


def test_only_a_claimed_request_can_be_finished(kind):
    ledger = kind.open()
    with pytest.raises(AssertionError, match="only a claimed request"):
        ledger.settle("k", REPLY, COST)
    assert ledger.usage("account") == Usage()


def test_a_reply_that_is_there_is_not_lost_to_a_late_failure(kind):
    """Its owner had lost the lease, and another one got the answer."""
    late, other = kind.open(), kind.open()
    late.claim("k", "account", b"")
    late.release("k")
    other.claim("k", "account", b"")
    other.settle("k", REPLY, COST)
    late.fail("k", Failure("bad-request", "no"), dead=True, usage=COST)
    assert late.claim("k", "account", b"").text == "a text"
    assert late.usage("account") == COST + COST  # both were paid for


def test_a_reservation_of_its_own_is_its_own(kind):
    """A transaction whose end was not heard of is done again."""
    ledger = kind.open()
    assert ledger.claim("k", "account", b"") == ledger.claim("k", "account", b"") == "mine"


def test_texts_that_a_server_made_up_are_kept(kind):
    ledger = kind.open()
    ledger.claim("k", "account", b"")
    ledger.settle("k", Reply("a\0b \U0001f600", "st\0op", "m\0", 1, 1), COST)
    reply = kind.open().claim("k", "account", b"")
    assert reply.text == "a\0b \U0001f600"
    assert (reply.finish_reason[:2], reply.model[:1]) == ("st", "m")
    ledger.claim("x", "account", b"")
    ledger.fail("x", Failure("unreadable", "a\0b"), dead=True)
    assert ledger.claim("x", "account", b"").detail[0] == "a"


def test_work_that_is_done_together_is_kept_together(kind):
    ledger = kind.open()

    def work() -> str:
        ledger.claim("k", "account", b"")
        ledger.settle("k", REPLY, COST)
        return "done"

    assert ledger.together(work) == "done"
    assert counts(kind.open()) == {"ok": 1}
    with pytest.raises(ZeroDivisionError):
        ledger.together(lambda: ledger.charge("k", COST) or 1 / 0)
    assert ledger.usage("account") == COST
