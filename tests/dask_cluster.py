"""A Dask scheduler and workers of the tests' own: processes on loopback, each in a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sifthinker.system.processes import end
from tests.machine import free_port

ROOT = Path(__file__).resolve().parents[1]
# Loaded by a worker before its first task: what is on another machine cannot be opened.
GUARD = """
import os, sys

EVENTS = ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.utime", "sqlite3.connect")
ELSEWHERE = tuple(os.environ["ELSEWHERE"].split(os.pathsep))


def refuse(event, arguments):
    if event in EVENTS and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = os.path.abspath(os.fsdecode(arguments[0]))
        if any(path == folder or path.startswith(folder + os.sep) for folder in ELSEWHERE):
            raise PermissionError(f"{path} is on another machine")


sys.addaudithook(refuse)
"""


@dataclass
class DaskCluster:
    """A scheduler, and the workers that were started."""

    folder: Path
    address: str
    scheduler: subprocess.Popen[bytes] | None = None
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def worker(self, name: str, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        """Starts a worker of one thread that nobody starts again."""
        alone = ("--no-nanny", "--nthreads", "1", "--memory-limit", "0", "--no-dashboard", "--name", name)
        self.workers[name] = self._start(name, "dask_worker", self.address, *alone, *options, **environment)
        return self.workers[name]

    def machine(self, name: str, elsewhere: Sequence[Path], *options: str, **environment: str) -> Path:
        """Starts a worker that shares no folder: its home, caches and store are its own; those folders it cannot open.

        Returns:
            its folder; its store is in there.
        """
        home = self.folder / name
        for inner in ("tmp", "prefect"):
            (home / inner).mkdir(parents=True)
        (home / "guard.py").write_text(GUARD)
        own = {
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),
            "PREFECT_HOME": str(home / "prefect"),
            "SIF_CACHE": str(home / "cache"),
            "SIF_STORE": str(home / "store"),
            "ELSEWHERE": os.pathsep.join(map(str, elsewhere)),
        }
        self.worker(name, "--preload", str(home / "guard.py"), *options, **own | environment)
        return home

    def log(self, name: str) -> str:
        return (self.folder / name / "log").read_text(errors="replace")

    def _start(self, name: str, program: str, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        path = os.pathsep.join(filter(None, (str(ROOT), os.getenv("PYTHONPATH"))))
        with (folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{program}", *options],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": path, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


@contextmanager
def cluster(folder: Path) -> Iterator[DaskCluster]:
    """A scheduler without workers; all that was started ends with the block."""
    address = f"tcp://127.0.0.1:{free_port()}"
    made = DaskCluster(folder, address)
    made.scheduler = made._start("scheduler", "dask_scheduler", "--host", address, "--no-dashboard")
    try:
        yield made
    finally:
        for process in (made.scheduler, *made.workers.values()):
            end(process.pid)
            process.wait()
