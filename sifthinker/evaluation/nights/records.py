"""The records of a night: what was evaluated, what it was compared with, what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sifthinker.config import Config
from sifthinker.core import scores
from sifthinker.core.scores import Score
from sifthinker.core.tables import read
from sifthinker.evaluation import gate, history
from sifthinker.evaluation.drift import Drift
from sifthinker.evaluation.gate import Comparison, ScoredReply

LAST, BASELINE = "last good night", "baseline"
BOTH = (
    f"{LAST} and the {BASELINE}"  # where the two say the same of every question: they are compared with once
)


@dataclass(frozen=True)
class Evaluated:
    """A checkpoint's evaluation: `folder` holds `scores.json` and `predictions.parquet`."""

    target: str  # as it is configured: an alias, a run, a folder
    model: str  # digest of its weights
    evaluation: str  # "evaluate/<key>"
    folder: Path
    replayed: bool = False  # taken from the store: nothing was asked for it now

    def rules(self) -> dict[str, int]:
        """The version of the rules by which its replies were scored, by benchmark."""
        return scores.rules(self.folder)

    def scores(self) -> list[Score]:
        """Its scores, read from the file."""
        return scores.read(self.folder)

    @property
    def predictions(self) -> Path:
        """The file of its replies."""
        return self.folder / "predictions.parquet"

    def scored(self) -> dict[str, list[ScoredReply]]:
        """Its scored replies by benchmark, read from the file."""
        return gate.load(self.predictions)

    def missing(self) -> dict[str, str]:
        """Why a benchmark was not asked, by name. One with hidden answers has no score but was asked."""
        asked = {row["benchmark"] for row in read(self.predictions, ["benchmark"])}
        return {
            s["benchmark"]: s["missing"]
            for s in self.scores()
            if s["missing"] and s["benchmark"] not in asked
        }


def references(last: Evaluated | None, baseline: Evaluated | None) -> dict[str, Evaluated]:
    """What a night is compared with, by its name."""
    return {name: found for name, found in ((LAST, last), (BASELINE, baseline)) if found}


@dataclass(frozen=True)
class Earlier:
    """What a night is held against."""

    rows: Sequence[history.Row]  # the history
    baseline: Evaluated | None  # the pinned checkpoint, on the same benchmarks
    pinned: Mapping[str, Any] | None  # the alias record of the baseline: who, when, why


@dataclass(frozen=True)
class Night:
    """When, and what was to be done."""

    id: str
    started: datetime  # with time zone
    config: Config  # with the benchmarks that were chosen


@dataclass
class Target:
    """One checkpoint's night."""

    name: str
    tonight: Evaluated | None
    missing: dict[str, str] = field(default_factory=dict)  # by benchmark, "" for all: why it could not run
    lost: str = ""  # that the pinned baseline could not be evaluated, and why
    last: Evaluated | None = None  # the last good night
    comparisons: list[Comparison] = field(default_factory=list)
    uncompared: dict[str, str] = field(
        default_factory=dict
    )  # by benchmark, why, though earlier nights had it
    drifts: list[Drift] = field(
        default_factory=list
    )  # how often replies fail in each way, against each reference
    warnings: list[str] = field(default_factory=list)  # falls and unreadable replies, whatever the tests say
    notices: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """It passed only when every comparison could have failed, and none did."""
        if any(comparison.regressed for comparison in self.comparisons):
            return history.REGRESSED
        if self.missing or self.lost:
            return history.NOT_RUN
        if self.uncompared or not all(comparison.able for comparison in self.comparisons):
            return history.INCONCLUSIVE
        return history.WARNED if self.warnings else history.PASSED


@dataclass(frozen=True)
class Outcome:
    """What a night came to: the worst of its checkpoints, a table in Markdown, and where the report is."""

    outcome: str
    message: str  # one line
    table: str
    report: Path
    leaves_open: bool = (
        False  # whether more questions could say more: nothing regressed, and something is not decided
    )
