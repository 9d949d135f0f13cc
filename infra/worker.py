"""A Prefect worker that stays until the last of its runs has ended: the command of the workers' containers.

    python -m infra.worker --pool gpu-8 --type process --limit 1      # the options of `prefect worker start`

On SIGTERM Prefect's worker tells its runs to end, and exits within two seconds without waiting for them. A container ends
with its first process, so that a training would be killed before its checkpoint. This process passes the signal on,
takes over what the worker leaves behind, and waits for it. How long that may take is the container's grace
(`stop_grace_period`, `terminationGracePeriodSeconds`). A second signal kills what is left.

A run that Prefect's worker ends this way keeps the state Running, and the slot of its pool. This process closes it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from uuid import UUID

import psutil

from infra import beginning

logger = logging.getLogger(__name__)
SUBREAPER = (
    36  # PR_SET_CHILD_SUBREAPER of Linux's prctl(2): orphans among our descendants become our children
)
SAID = 10.0  # seconds between two lines about what is waited for


def main() -> None:
    """Runs the worker, and ends with its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # else a line for each request
    # A pool is made by infra/deploy.py, with its limit and queues, and not by the worker that comes first.
    options = ["--no-create-pool-if-not-found", *sys.argv[1:]]
    stop = threading.Event()
    threading.Thread(target=beginning.watch, args=(stop,), name="beginning", daemon=True).start()
    code, runs = supervise([sys.executable, "-m", "prefect", "worker", "start", *options])
    stop.set()
    close(runs)
    sys.exit(code)


def supervise(command: Sequence[str]) -> tuple[int, set[str]]:
    """Runs a command until it and all its descendants have ended; its exit code, and the flow runs that it left."""
    if ctypes.CDLL(None, use_errno=True).prctl(SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
    worker: subprocess.Popen[bytes] | None = None
    told: list[int] = []
    runs: set[str] = set()

    def tell(number: int, _: object) -> None:
        told.append(number)
        if len(told) == 1:
            if worker:
                runs.update(beginning.runs())
                worker.send_signal(number)
            return
        for process in psutil.Process().children(recursive=True):
            process.kill()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, tell)
    # After the handlers: where this process was started with SIGINT ignored (in the background of a shell), the worker
    # would inherit that, and Prefect's worker ends itself by a SIGINT.
    worker = subprocess.Popen(command, start_new_session=True)
    if told:
        worker.send_signal(told[0])
    code = worker.wait()
    runs.update(beginning.runs())
    _outlast()
    return code, runs


def close(runs: Iterable[str]) -> None:
    """Sets the runs that have not ended to Crashed: their processes are gone."""
    if not runs:
        return
    # Prefect takes seconds to load, and a worker that stops idle needs none of it.
    import httpx
    from prefect.client.orchestration import get_client

    from tasks.runtime import liveness

    why = f"Its worker on {socket.gethostname()} was stopped."
    for run in sorted(runs):
        try:
            with get_client(sync_client=True) as client:
                state = liveness.close(client, UUID(run), why)
        except (
            httpx.HTTPError
        ) as error:  # its heartbeats are missed within two minutes of the server's return
            logger.error("run %s: whether it is closed is not known: %s", run, error)
        else:
            logger.info("run %s: %s", run, f"{state}: {why}" if state else "has ended")


def _outlast() -> None:
    """Returns when no descendant runs any more."""
    said = time.monotonic() - SAID
    while True:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not ended:
            if time.monotonic() - said >= SAID:
                said = time.monotonic()
                left = [f"{child.pid} {child.name()}" for child in psutil.Process().children()]
                logger.info("the worker has ended; waiting for its runs: %s", ", ".join(left))
            time.sleep(0.1)


if __name__ == "__main__":
    main()
