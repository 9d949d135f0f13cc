"""Starts a stand-in as a child process, and asks it what it was asked."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sifthinker.system import processes

_START = 300.0  # seconds until it must listen; one that loads a model takes longer than the others


@contextlib.contextmanager
def running(
    log: Path,
    faults: Mapping[str, float] | None = None,
    program: str = "sifthinker.llm.standin",
    scenes: Sequence[Path] = (),
    **settings: float | str,
) -> Iterator[str]:
    """Runs a stand-in as a child process and yields its base URL. It ends with the block, and with this process.

    Args:
        log: receives what the stand-in prints.
        faults: shares of requests, 0..1, by kind of fault.
        program: the module that is run, which takes the stand-in's options.
        scenes: files that say what is to be seen.
        settings: other fields of `Settings`.

    Raises:
        RuntimeError: the stand-in did not start; the message has the end of its log.
    """
    port_file = log.with_name(f"{log.name}.{os.getpid()}.{time.monotonic_ns()}.port")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    options += [f"--scenes={path}" for path in scenes]
    options += [f"--fault={kind}={rate}" for kind, rate in (faults or {}).items()]
    command = [
        sys.executable,
        "-m",
        program,
        "--port=0",
        f"--port-file={port_file}",
        *options,
    ]
    with log.open("ab") as out:
        child = subprocess.Popen(
            [*command, f"--parent={os.getpid()}"],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _START
        while not port_file.exists():
            if child.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise RuntimeError(f"the stand-in server did not start:\n{tail}")
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port_file.read_text()}/v1"
    finally:
        processes.end(child.pid, grace=0)
        child.wait()
        port_file.unlink(missing_ok=True)


def counts(base_url: str) -> dict[str, Any]:
    """What a running stand-in was asked and answered so far, see `Server.counts`."""
    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/standin/counts", timeout=30) as response:
        value: dict[str, Any] = json.load(response)
        return value
