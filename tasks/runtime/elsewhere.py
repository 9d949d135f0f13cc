"""What shards on other machines have asked of an endpoint: each notes it in its manifest, and its stage adds it up."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sifthinker.llm.call_counts import SUMMED, Counts
from sifthinker.store.manifest import Manifest

BOUGHT = "bought"  # the note of a shard's manifest


def noted(notes: dict[str, Any], counts: Counts) -> None:
    """Adds to a shard's notes what it has asked."""
    before: Mapping[str, Any] = notes.get(BOUGHT, {})
    summed = {name: getattr(counts, name) + before.get(name, 0) for name in SUMMED}
    notes[BOUGHT] = {**summed, "currency": counts.currency}


@dataclass
class Elsewhere:
    """The shards of a stage that other machines make.

    Attributes:
        rows: of all of them together.
        made: the manifests of those that are made.
    """

    rows: int = 0
    made: list[Manifest] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    def added(self, here: Counts) -> Counts:
        """Their counts and those of this process."""
        if not self.rows:
            return here
        kept = sum(shard["rows"]["kept"] for shard in self.made)
        done = sum(shard["rows"]["in"] for shard in self.made)
        notes = [shard["notes"][BOUGHT] for shard in self.made if BOUGHT in shard["notes"]]
        summed = {name: getattr(here, name) + sum(note[name] for note in notes) for name in SUMMED}
        a_second = done / max(time.monotonic() - self._began, 0.001)
        return replace(
            here,
            rows_total=here.rows_total + self.rows,
            rows_kept=here.rows_kept + kept,
            rows_rejected=here.rows_rejected + done - kept,
            per_minute=60 * a_second,
            seconds_left=(self.rows - done) / a_second if done else None,
            **summed,
        )
