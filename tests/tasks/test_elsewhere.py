"""What shards on other machines have asked is added to what this process has."""

import logging
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sifthinker.llm.call_counts import Counts, amounts
from tasks.runtime import elsewhere
from tasks.runtime.elsewhere import Elsewhere
from tasks.runtime.endpoint import watched

NONE = Counts(0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, "CNY", 0.0, None)


def shard(kept: int, rejected: int, *asked: Counts) -> Any:
    notes: dict[str, Any] = {}
    for counts in asked:
        elsewhere.noted(notes, counts)
    return {"rows": {"in": kept + rejected, "kept": kept}, "notes": notes}


def test_a_stage_shows_its_shards_calls_tokens_and_money():
    asked = replace(NONE, calls=5, cached=1, prompt_tokens=50, completion_tokens=10, money=0.5)
    found = Elsewhere(rows=12)
    assert found.added(NONE) == replace(NONE, rows_total=12)
    found.made += [shard(3, 1, asked, asked), shard(4, 0)]
    probe = replace(NONE, calls=1, prompt_tokens=10, money=0.25)
    sums = found.added(probe)
    assert (sums.calls, sums.cached, sums.prompt_tokens, sums.completion_tokens) == (11, 2, 110, 20)
    assert sums.money == 1.25 and sums.currency == "CNY"
    assert (sums.rows_total, sums.rows_kept, sums.rows_rejected) == (12, 7, 1)
    assert sums.per_minute > 0 and sums.seconds_left


def test_a_stage_without_shards_elsewhere_shows_its_own_counts():
    own = replace(NONE, calls=3, rows_total=5)
    assert Elsewhere().added(own) is own


def test_what_came_since_a_count_is_the_difference():
    later = replace(NONE, calls=7, money=2.0, in_flight=3)
    assert later.since(replace(NONE, calls=5, money=0.5)) == replace(later, calls=2, money=1.5)


def test_rows_of_a_shard_that_is_made_again_are_counted_once():
    found = Elsewhere(counted={"a", "b"})
    here = replace(NONE, rows_total=10, rows_kept=4, rows_rejected=6, calls=7)
    assert found.added(here) is here
    found.again("not counted", {"in": 9, "kept": 9})  # it was in the store before this run
    assert found.added(here) is here
    found.again("a", {"in": 5, "kept": 2})
    assert found.added(here) == replace(here, rows_total=5, rows_kept=2, rows_rejected=3)

    there = Elsewhere(rows=8, counted={"a"})
    there.made += [shard(2, 2), shard(1, 3)]
    there.again("a", {"in": 4, "kept": 2})
    there.rows += 4
    there.made.append(shard(3, 1))
    sums = there.added(NONE)
    assert (sums.rows_total, sums.rows_kept, sums.rows_rejected) == (8, 4, 4)


def test_the_notes_of_a_stage_are_of_all_its_endpoints_and_of_the_shards_elsewhere_once(
    tmp_path: Path,
) -> None:
    notes: dict[str, Any] = {}
    job: Any = SimpleNamespace(
        order=SimpleNamespace(label="retry"),
        log=logging.getLogger(),
        notes=notes,
        elsewhere=Elsewhere(rows=4),
        work=tmp_path,
    )
    asked = {"calls": 5, "cached": 1, "prompt_tokens": 50, "completion_tokens": 10}
    passes = [
        replace(NONE, **asked, money=0.5),
        replace(NONE, **asked, money=0.25, currency="USD", estimated_tokens=7),
        replace(NONE, **asked, money=0.25),
    ]
    with ExitStack() as stack:
        for found in passes:
            stack.enter_context(watched(job, lambda found=found: found))  # type: ignore[misc]
        job.elsewhere.made.append(shard(3, 1, replace(NONE, **asked, money=1.0)))
    assert (notes["calls"], notes["answered_by_the_ledger"]) == (20, 4)
    assert (notes["prompt_tokens_bought"], notes["completion_tokens_bought"]) == (200, 40)
    assert notes["tokens_estimated"] == 7
    assert amounts(notes["cost"]) == {"CNY": 1.75, "USD": 0.25}
