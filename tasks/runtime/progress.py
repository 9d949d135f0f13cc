"""How far a stage is, and how it has ended: lines in the log, and a progress artifact in the UI."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from tasks.runtime import events, ui_artifacts
from tasks.runtime.stage_log import Log

End = Literal["completed", "failed", "stopped"]  # how work has ended
SAME = 60.0  # seconds after which a line that says nothing new is said again: it works
STOPPED = "its run was cancelled or told to end"
STOPPING = "stopping with a checkpoint; once more ends it at once"


class Progress:
    """Rows done, rate and time left: a line in the log and a progress artifact in the UI."""

    def __init__(
        self,
        label: str,
        total: int | None,
        log: Log,
        every: float = 2.0,
        counted: bool = False,
        still: Callable[[], None] = lambda: None,
        part: int | None = None,
    ) -> None:
        """Starts the clock.

        Args:
            label: of the stage.
            total: rows that will come; None: unknown.
            log: takes the lines.
            every: seconds between two lines, at least.
            counted: the notes say rows, rate and time left, so that no second clock contradicts them.
            still: raises where the stage shall not go on; asked with each line.
            part: of a shard, its number from 0.
        """
        self.label, self.total, self.log, self.part = label, total, log, part
        self._every, self._counted, self._still = every, counted, still
        self._said = ("", 0.0)  # the last line's news, and when it was said
        self.done = 0
        self._started = self._shown = time.monotonic()
        self._artifact: Any = None

    def add(self, rows: int, note: str = "") -> None:
        """Says that so many more rows are done."""
        self.at(self.done + rows, note)

    def at(self, done: float, note: str = "") -> None:
        """Says that `done` of `total` is done."""
        self.done = int(done)
        now = time.monotonic()
        if now - self._shown < self._every:
            return
        self._shown = now
        self._still()
        counted, seconds = self._counted, now - self._started
        left = seconds * (self.total - done) / done if self.total and done and not counted else None
        events.tell(events.Moved(self.label, self.part, self.done, self.total, note, counted, left))
        news = f"{self.done} {note}"
        if news == self._said[0] and now - self._said[1] < SAME:
            return
        self._said = (news, now)
        line = note if counted else self._timed(done, seconds, left, note)
        self.log.info("%s: %s", self.label, line)
        if self.total:
            self._show(100.0 * done / self.total, line)

    def end(self, how: End, note: str = "") -> None:
        """Says in the UI that nothing more comes, where it was shown that something would.

        Args:
            how: the stage has ended.
            note: the last counts in words.
        """
        if self._artifact is None or not self.total:
            return
        seconds = time.monotonic() - self._started
        percent = 100.0 if how == "completed" else 100.0 * self.done / self.total
        said = note if self._counted else f"{self.done} of {self.total}"
        why = f": {STOPPED}" if how == "stopped" else ""
        self._show(percent, f"{how} after {seconds:.0f} s, {said}{why}", last=True)

    def stopping(self) -> None:
        """Says that the stage was told to end, where that takes a while: the process may be killed meanwhile."""
        events.tell(events.Moved(self.label, self.part, self.done, self.total, STOPPING, True))
        if self._artifact is not None and self.total:
            self._show(
                100.0 * self.done / self.total, f"stopping at {self.done} of {self.total}: {STOPPED}", True
            )

    def _timed(self, done: float, seconds: float, left: float | None, note: str) -> str:
        of = f" of {self.total}" if self.total else ""
        remaining = "" if left is None else f", {left:.0f} s left"
        return f"{self.done}{of}, {done / seconds:.1f}/s{remaining}{f' | {note}' if note else ''}"

    def _show(self, percent: float, line: str, last: bool = False) -> None:
        said = f"Progress of {self.label}: {line}"
        self._artifact = ui_artifacts.progress(min(100.0, percent), said, self._artifact, last)


def how(error: BaseException | None) -> End:
    """How work has ended that this exception left, or none. One that is no `Exception` ends the whole run."""
    if error is None:
        return "completed"
    return "failed" if isinstance(error, Exception) else "stopped"
