"""The lines of a plan, and why a run is refused for what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sifthinker.core.errors import UserError
from sifthinker.store.manifest import Ref


@dataclass(frozen=True)
class Planned:
    """One line of a plan."""

    label: str
    verdict: str  # "cached", "pinned" or "runs"
    reasons: tuple[str, ...] = ()
    seconds: float | None = None  # that it took the last time
    rows: int | None = None
    expects: str = ""  # what it will take: calls, tokens, money, steps
    pool: str | None = None  # where it would run; none: in the flow's process
    key: str | None = None  # none: an input of it is not there yet
    lacks: tuple[str, ...] = ()  # what is not there for it; a run is refused
    made: Ref | None = None  # the artifact that a run takes, where it is cached

    def as_json(self) -> dict[str, Any]:
        """For programs: a stage whose inputs are not there yet has no key."""
        return {
            "stage": self.label,
            "key": self.key,
            "cached": self.verdict != "runs",
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "expected_seconds": self.seconds if self.verdict == "runs" else 0.0,
            "rows": self.rows,
            "where": self.where,
            "expects": self.expects,
            "lacks": list(self.lacks),
        }

    @property
    def where(self) -> str:
        """Where it would run, in words; "" where it would not."""
        return "" if self.verdict != "runs" else f"pool {self.pool}" if self.pool else "here"


def cannot_start(label: str, missing: Sequence[Planned]) -> str:
    """Why a run cannot start at a stage: the causes, and in one line what only follows from them."""
    causes = [p for p in missing if p.key is not None or p.lacks]
    following = [p.label for p in missing if p not in causes]
    lines = [f"start_at: {label} cannot start, its earlier stages are not in the store as configured:"]
    lines += [f"  {p.label}: {'; '.join((*p.reasons, *p.lacks))}" for p in causes]
    if following:
        lines.append(f"  and what is made from that: {', '.join(following)}")
    lines.append("Run without start_at, or pin the artifacts of an earlier run with reuse_run.")
    return "\n".join(lines)


def refuse(planned: Sequence[Planned]) -> None:
    """Refuses a run that would come to a stage for which something is not there, before its first stage.

    Raises:
        UserError: names all of it.
    """
    lacking = [f"  {p.label}: {what}" for p in planned for what in p.lacks]
    if lacking:
        raise UserError(
            "nothing ran, because a later stage lacks files or settings:\n"
            + "\n".join(lacking)
            + "\nPut the files there, "
            "correct the paths, or run without them (evaluate.missing: leave_out, or --stop-after an earlier stage)."
        )
