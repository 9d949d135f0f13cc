"""A bar while files are read for their digests, which takes minutes the first time for folders of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from sifthinker.store.verification import verifier


@contextmanager
def shown(store: Path) -> Iterator[None]:
    """Shows on standard error, from the first moment, that a store and the user's files are being looked at."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("looking at the store and the files", total=None)

        def watch(done: int, total: int) -> None:
            bar.update(task, description="reading new files", completed=done, total=total or None)

        digests = verifier(store.resolve()).digests
        before, digests.watch = digests.watch, watch
        try:
            yield
        finally:
            digests.watch = before
