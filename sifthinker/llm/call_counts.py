"""How far a stage that calls a model has come, and a bar in the terminal that shows it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from sifthinker.system.repeating import repeated

# What counts of several engines are added up by.
SUMMED = ("calls", "cached", "failed", "prompt_tokens", "completion_tokens", "estimated_tokens", "money")


@dataclass(frozen=True, slots=True)
class Counts:
    """What an engine has done since it started. Rows are a stage's, calls are requests."""

    rows_total: int  # 0 = not known
    rows_kept: int
    rows_rejected: int
    calls: int  # answered by the server
    cached: int  # answered by the ledger
    failed: int  # without an answer
    in_flight: int
    prompt_tokens: int  # bought by this process
    completion_tokens: int
    money: float
    currency: str
    per_minute: float  # rows, or calls where no rows are counted
    seconds_left: float | None  # none: not known (yet)
    estimated_tokens: int = 0  # of the tokens bought, those that the server did not report
    waiting: str = ""  # what the endpoint is waited for

    @property
    def rows_done(self) -> int:
        """Rows kept and rejected."""
        return self.rows_kept + self.rows_rejected

    def since(self, before: Counts) -> Counts:
        """What came after `before`; rows, rate and what is under way stay as they are."""
        more = {name: getattr(self, name) - getattr(before, name) for name in SUMMED}
        return replace(self, **more)

    def line(self) -> str:
        """One line for a person."""
        parts = []
        if self.rows_total:
            parts = [f"{self.rows_done}/{self.rows_total} rows", f"{self.rows_rejected} rejected"]
        parts += [f"{self.calls} calls", f"{self.cached} from the ledger", f"{self.in_flight} in flight"]
        parts.append(f"{self.per_minute:,.0f}/min")
        estimated = f" ({self.estimated_tokens:,} estimated)" if self.estimated_tokens else ""
        parts.append(f"{self.prompt_tokens + self.completion_tokens:,} tokens{estimated}")
        if self.money:
            parts.append(f"{self.money:,.2f} {self.currency}")
        if self.seconds_left:  # none is left where all is done
            minutes, seconds = divmod(round(self.seconds_left), 60)
            parts.append(f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left")
        if self.waiting:
            parts.append(self.waiting)
        return ", ".join(parts)


def pace(finished: Sequence[float], left: int | None) -> tuple[float, float | None]:
    """How many are done a minute, by the last two minutes, and the seconds that those left will take.

    Args:
        finished: when each was done, by `time.monotonic`, the earliest first.
        left: how many are left; none: not known.

    Returns:
        The seconds are none where they are not known.
    """
    now = time.monotonic()
    recent = [at for at in finished if at > now - 120]
    span = now - recent[0] if recent else 0.0
    per_second = len(recent) / span if span > 0 else 0.0
    return 60 * per_second, left / per_second if left is not None and per_second else None


def amounts(cost: str) -> dict[str, float]:
    """The money of a stage's note `cost` by currency: "1.5000 CNY, 0.2000 USD"."""
    parts = (part.partition(" ") for part in cost.split(", ") if part)
    return {currency: float(amount) for amount, _, currency in parts}


@contextlib.contextmanager
def bar(
    progress: Callable[[], Counts],
    label: str,
    every: float = 0.5,
    line: Callable[[Counts], str] = Counts.line,
) -> Iterator[None]:
    """A bar in the terminal while the block runs, redrawn from `progress()`; `every` in seconds, `line` in words."""
    name = TextColumn(label, table_column=Column(min_width=len(label)))
    figures = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=False))
    with Progress(name, BarColumn(20), figures, expand=True) as display:
        task = display.add_task("", total=None)

        def draw() -> None:
            counts = progress()
            display.update(
                task, description=line(counts), completed=counts.rows_done, total=counts.rows_total or None
            )

        try:
            with repeated(draw, lambda: every):
                yield
        finally:
            draw()
