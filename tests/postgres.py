"""A PostgreSQL server of the tests' own, on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.machine import free_port


@dataclass
class Server:
    """Its one database is `postgres`; it can be stopped and started again."""

    folder: Path
    programs: Path
    user: list[str]
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        data, port = str(self.folder / "data"), str(self.port)
        serve = [
            *self.user,
            str(self.programs / "postgres"),
            "-D",
            data,
            "-p",
            port,
            "-k",
            str(self.folder),
            "-F",
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                serve, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        ready = [str(self.programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", port]
        deadline = time.monotonic() + 60
        while subprocess.run(ready).returncode:
            assert self.process.poll() is None and time.monotonic() < deadline, (
                self.folder / "log"
            ).read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGINT)  # at once, whoever is connected
        self.process.wait(30)

    def make(self) -> None:
        """The files of an empty database."""
        initdb = [
            str(self.programs / "initdb"),
            "-D",
            str(self.folder / "data"),
            "-A",
            "trust",
            "-U",
            "postgres",
        ]
        subprocess.run([*self.user, *initdb, "--no-sync"], check=True, capture_output=True, cwd=self.folder)


@contextmanager
def serving() -> Iterator[Server]:
    """A server while the block runs; skips where PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        missing = "no PostgreSQL server here: apt-get install postgresql"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    folder = Path(tempfile.mkdtemp(prefix="sif-postgres-"))  # pytest's own folders are closed to other users
    user = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(folder, "postgres")
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    server = Server(folder, found[-1].parent, user, free_port())
    try:
        server.make()
        server.start()
        yield server
    finally:
        if server.process:
            server.stop()
        shutil.rmtree(folder)
