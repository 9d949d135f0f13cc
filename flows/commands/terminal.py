"""What people see of a run while it runs: a line a stage, and a bar where one works. `--verbose` shows Prefect's lines.

Warnings are shown once each. What else Prefect and the stages log is in the UI and in `sif logs`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import termios
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from sifthinker.core import durations, rejects

VerboseOption = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="all lines of Prefect and of the stages, in place of one a stage"),
]
# How Prefect's own lines about the end of a run begin: the stage's line, and the command's last one, say it.
PREFECTS = ("Finished in state ", "Task run failed with state: ")
EVERY = 60.0  # seconds between two lines about a stage at work, where there is no terminal for a bar
NAMES = 16  # columns
LOCAL = 3  # the local flags among a terminal's attributes


def quiet() -> None:
    """Before anything heavy is imported: libraries draw no bars of their own."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


@contextmanager
def shown(verbose: bool, as_json: bool = False) -> Iterator[None]:
    """Shows the run of the block. Prefect is imported by now.

    Args:
        verbose: leave Prefect's logging as it is.
        as_json: keep the standard output free for JSON.
    """
    from tasks.runtime.events import LOGGER

    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        if verbose:
            yield
            return
        root, handler = logging.getLogger(), Terminal(Console(stderr=True))
        before, root.handlers = root.handlers, [handler]
        levels = LOGGER.level, LOGGER.propagate
        LOGGER.setLevel(logging.INFO)
        try:
            with told_to_end(), _without_echo(), handler:
                yield
        except (KeyboardInterrupt, ToldToEnd):
            said = "interrupted. What was finished is in the store: the same command goes on from there"
            Console(stderr=True).print(said, highlight=False)
            raise
        finally:
            root.handlers = before
            LOGGER.level, LOGGER.propagate = levels


class ToldToEnd(SystemExit):
    """SIGTERM came."""


@contextmanager
def told_to_end() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does. By default the process would end at once, without a word.

    Raises:
        ToldToEnd: in the block. A flow of Prefect raises an error of its own first, and passes the signal on at its end.
    """

    def ends(number: int, _: object) -> None:
        raise ToldToEnd(128 + number)

    before = signal.signal(signal.SIGTERM, ends)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _without_echo() -> Iterator[None]:
    """A terminal that does not write ^C into a bar, which would leave the bar's line behind."""
    if not _in_foreground():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    quiet = [*before]
    quiet[LOCAL] &= ~termios.ECHOCTL
    termios.tcsetattr(sys.stdin, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        if _in_foreground():  # else the shell has its terminal back, as it was
            termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def _in_foreground() -> bool:
    """Whether there is a terminal, and it is ours: the system stops a process in the background (`&`) that changes one."""
    if sys.stdin is None or not sys.stdin.isatty():  # None: it is closed
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:  # the terminal of another session
        return False


class Terminal(logging.Handler):
    """Turns the records of a run into what people see."""

    def __init__(self, console: Console) -> None:
        """Shows nothing yet.

        Args:
            console: takes the lines; a bar is drawn where it is a terminal.
        """
        super().__init__(logging.INFO)
        self.console = console
        bar = 20 if console.width >= 80 else 10
        self._bars = Progress(
            TextColumn(f"{{task.description:{NAMES}}}", table_column=Column(no_wrap=True, min_width=NAMES)),
            BarColumn(bar, table_column=Column(min_width=bar)),
            # Takes what is left of the line, and is cut there: a bar is one line.
            TextColumn(
                "{task.fields[note]}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            console=console,
            transient=True,
            disable=not console.is_terminal,
            expand=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._whole: set[str] = set()  # stages that say themselves how far they are, not only their shards
        self._said: dict[str, float] = {}  # when a stage at work was last mentioned
        self._once: set[str] = set()
        self._errors: list[str] = []  # until it is known whether a stage's end repeats them

    def __enter__(self) -> Terminal:
        """Starts the bars."""
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the bars."""
        self._bars.stop()
        self._errors.clear()  # the command's last line says it

    def emit(self, record: logging.LogRecord) -> None:
        """Shows a record, if it is one for people."""
        try:
            event = getattr(record, "event", None)
            if event is not None:
                self._event(event)
            elif record.getMessage().startswith(PREFECTS):
                return
            elif record.exc_info and record.exc_info[0]:  # a mistake of ours
                self._line(self.format(record), "red")
            elif record.levelno >= logging.ERROR:
                self._errors.append(record.getMessage())
            elif record.levelno >= logging.WARNING and record.getMessage() not in self._once:
                self._once.add(record.getMessage())
                self._line(f"warning: {record.getMessage()}", "yellow")
        except (OSError, ValueError):  # a pipe that was closed: what cannot be shown must not end the run
            self.handleError(record)

    def _event(self, event: Any) -> None:
        from tasks.runtime.events import Began, Moved

        if isinstance(event, Began):
            note = f"in pool {event.where}" if event.where else ""
            self._tasks[event.label] = self._bars.add_task(event.label, total=None, note=note)
            self._said[event.label] = time.monotonic()
        elif isinstance(event, Moved):
            self._moved(event)
        else:
            self._ended(event)

    def _moved(self, event: Any) -> None:
        if event.part is None:
            self._whole.add(event.label)
        elif event.label in self._whole:  # the stage counts its shards
            return
        of = f"{event.done:,}{f' of {event.total:,}' if event.total else ''}"
        left = "" if event.left is None else f"{_time(event.left)} left"
        note = event.note if event.counted else ", ".join(filter(None, (of, left, event.note)))
        if (task := self._tasks.get(event.label)) is not None:
            self._bars.update(task, completed=event.done, total=event.total, note=note)
        now = time.monotonic()
        if not self.console.is_terminal and now - self._said.get(event.label, now) >= EVERY:
            self._said[event.label] = now
            self._line(f"{event.label:{NAMES}} {note}")

    def _ended(self, event: Any) -> None:
        if (task := self._tasks.pop(event.label, None)) is not None:
            self._bars.remove_task(task)
        for text in self._errors:
            if text not in event.why:
                self._line(f"error: {text}", "red")
        self._errors.clear()
        if event.manifest is None:
            first = event.why.partition("\n")[0].removeprefix(f"{event.label}: ")
            self._line(
                f"{event.label:{NAMES}} failed after {durations.in_words(event.seconds)}: {first}", "red"
            )
            return
        rows = event.manifest["rows"]
        made = f"{rows['kept']:,} of {rows['in']:,} rows kept" if rows["in"] else ""
        if lost := sum(rows["rejected"].values()):
            made += f", {lost:,} rejected: {rejects.top(rows['rejected'])}"
        cost = str(event.manifest["notes"].get("cost", ""))
        ended = (
            ["cached", made]
            if event.cached
            else [made or "made", durations.in_words(event.seconds), cost, _before(event.manifest)]
        )
        said = ", ".join(part for part in ended if part)
        self._line(f"{event.label:{NAMES}} {said}", "dim" if event.cached else "")

    def _line(self, text: str, style: str = "") -> None:
        if (
            self.console.is_terminal
        ):  # between words, under what the line says; elsewhere a line stays one line
            indent = " " * (NAMES + 1 if text[NAMES : NAMES + 1] == " " and text[: NAMES + 1].strip() else 2)
            text = "\n".join(
                textwrap.fill(
                    line,
                    self.console.width,
                    subsequent_indent=indent,
                    break_long_words=False,
                    break_on_hyphens=False,
                    drop_whitespace=True,
                )
                for line in text.split("\n")
            )
        self.console.print(Text(text, style=style), soft_wrap=True)


def _before(manifest: Mapping[str, Any]) -> str:
    """What the tries took that ended without the artifact."""
    from sifthinker.reporting import bought  # imports what a command that shows no run does without

    found = manifest["notes"].get(bought.EARLIER)
    if not found:
        return ""
    before = "a try before took" if found["tries"] == 1 else f"{found['tries']} tries before took"
    return " and ".join(filter(None, (f"{before} {durations.in_words(found['seconds'])}", found.get("cost"))))


def _time(seconds: float) -> str:
    """An estimate: no tenths of a second."""
    return durations.in_words(seconds) if seconds >= 60 else f"{seconds:.0f} s"
