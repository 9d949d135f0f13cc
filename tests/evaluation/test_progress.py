"""What a person sees of an evaluation that runs."""

from dataclasses import replace
from typing import Any

import pytest

from sifthinker.evaluation.progress import Progress
from sifthinker.llm.call_counts import Counts


class Client:
    """Counts rows as an engine does."""

    def __init__(self) -> None:
        self.total = self.kept = self.rejected = 0

    def expect(self, rows: int) -> None:
        self.total += rows

    def row_done(self, kept: bool) -> None:
        self.kept += kept
        self.rejected += not kept

    def progress(self) -> Counts:
        return Counts(
            self.total, self.kept, self.rejected, 7, 2, 0, 3, 10, 5, 0.0, "", 120.0, 61.0, 0, "a rate limit"
        )


def test_before_the_questions_the_depth_pictures_are_counted() -> None:
    progress = Progress()
    progress.depths += 3
    assert progress.line(progress.counts()) == "3 depth pictures made"
    assert progress.counts().rows_total == 0


def test_the_line_has_rate_time_left_and_what_could_not_be_read_so_far() -> None:
    progress, client = Progress(), Client()
    given: Any = client
    with progress.asking(given, 10):
        for reason in ("", "no-answer", "", "refused"):
            progress.reply(reason)
        progress.lost(2)
        counts = progress.counts()
    assert (counts.rows_total, counts.rows_kept, counts.rows_rejected) == (10, 4, 2)
    assert progress.line(counts) == (
        "2 unparsable (50.0%) so far, 6/10 rows, 2 rejected, 7 calls, 2 from the ledger, 3 in flight, 120/min, "
        "15 tokens, 0:01:01 left, a rate limit"
    )


def test_the_last_line_promises_nothing_more() -> None:
    progress, client = Progress(), Client()
    given: Any = client
    with progress.asking(given, 1):
        progress.reply("refused")
    counts = replace(progress.counts(), seconds_left=0.0, waiting="")
    assert progress.line(counts) == (
        "1 unparsable (100.0%), 1/1 rows, 0 rejected, 7 calls, 2 from the ledger, 3 in flight, 120/min, 15 tokens"
    )


def test_what_was_counted_stays_when_the_client_is_closed_also_by_an_error() -> None:
    progress, client = Progress(), Client()
    given: Any = client
    with pytest.raises(KeyError), progress.asking(given, 3):
        progress.reply("")
        raise KeyError
    client.kept = 99
    assert progress.counts().rows_kept == 1


def test_nothing_is_shared_with_an_evaluation_that_nobody_watches() -> None:
    progress = Progress()
    progress.reply("")
    progress.lost(1)
    assert progress.scored == 1
