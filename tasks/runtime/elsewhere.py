"""What shards on other machines have asked of an endpoint: each notes it in its manifest, and its stage adds it up.

Rows of shards that a further round makes again are counted once.
"""

from __future__ import annotations

import time
from collections import Counter
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
        counted: keys of the shards whose rows are counted, wherever they were made.
        noted: what they asked is in the notes of the stage.
    """

    rows: int = 0
    made: list[Manifest] = field(default_factory=list)
    counted: set[str] = field(default_factory=set)
    noted: bool = False
    _again: Counter[str] = field(default_factory=Counter)
    _began: float = field(default_factory=time.monotonic)

    def again(self, key: str, rows: Mapping[str, Any]) -> None:
        """A shard is made again, with more of its rows: what is counted of it is taken back."""
        if key in self.counted:
            self._again.update({name: rows[name] for name in ("in", "kept")})

    def added(self, here: Counts) -> Counts:
        """Their counts and those of this process."""
        again = self._again
        if again["in"]:
            here = replace(
                here,
                rows_total=here.rows_total - again["in"],
                rows_kept=here.rows_kept - again["kept"],
                rows_rejected=here.rows_rejected - (again["in"] - again["kept"]),
            )
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
