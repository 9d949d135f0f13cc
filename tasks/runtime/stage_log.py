"""The log of a stage in its work folder, `run.log`: what `sif logs` shows, wherever the stage runs.

The lines are those of the stage's task, of its shards in this process, and of our own modules meanwhile. They are flushed one by
one, so that another machine that sees the store can follow them. The log of a program that the stage starts lies beside
it, in `log.txt`. Several tries of one artifact append to one file.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

from prefect.context import TaskRunContext

Log = logging.Logger | logging.LoggerAdapter[Any]
NAME = "run.log"
LOGGERS = ("prefect.task_runs", "sifthinker", "tasks")
_current: ContextVar[TextIO | None] = ContextVar("stage_log", default=None)
_of_task: dict[str, TextIO] = {}  # for threads that were started without the context


class _Files(logging.Handler):
    """Writes each record into the file of the stage that it belongs to."""

    def emit(self, record: logging.LogRecord) -> None:
        file = _of_task.get(str(getattr(record, "task_run_id", ""))) or _current.get()
        if file is None or file.closed:
            return
        try:
            file.write(self.format(record) + "\n")
            file.flush()
        except (OSError, ValueError):  # a full disk: the stage itself says so; closed meanwhile: it has ended
            return


_files = _Files(logging.INFO)
_files.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))


@contextmanager
def kept(work: Path, label: str) -> Iterator[None]:
    """Keeps the log of a stage while it is made.

    Args:
        work: its work folder.
        label: of the stage.
    """
    for name in LOGGERS:
        logging.getLogger(name).addHandler(_files)  # once, however often it is added
    task = TaskRunContext.get()
    number = str(task.task_run.id) if task else ""
    with (work / NAME).open("a", encoding="utf-8") as file:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"--- {label} on {socket.gethostname()}, {now}\n")
        token = _current.set(file)
        _of_task[number] = file
        try:
            yield
        except BaseException as error:
            file.write(f"--- {label} ended: {type(error).__name__}: {error}\n")
            raise
        else:
            file.write(f"--- {label} is made, {time.strftime('%H:%M:%S')}\n")
        finally:
            _of_task.pop(number, None)
            _current.reset(token)
