"""Starting a program in its own process group, following it, and ending it with the run that started it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sifthinker.core.errors import UserError
from sifthinker.system import commands, processes, program_files
from sifthinker.system.files import write_json
from sifthinker.system.json_lines import parsed, whole_size
from tasks.runtime.stage import Job, Order

EVERY = 0.5  # seconds between two looks at a program
TWICE = 2.0  # seconds between two signals that are two
MARGIN = 5.0  # seconds that a launcher is given after its ranks
BEATS = 30.0  # seconds without a sign of life after which a program on another host counts as ended


class ProgramFailed(Exception):
    """A program ended with an error; the message has the end of its log."""


@dataclass(frozen=True)
class Watch:
    """Who is told how a program goes."""

    at: Callable[[int], None] = lambda step: None  # told each step seen
    look: Callable[[], None] = lambda: None  # called while it runs, and ends it by an exception
    stopping: Callable[[], None] = lambda: None  # called where it is told to end


def follow(
    job: Job,
    command: list[str],
    progress: Path,
    timeout: float | None,
    watch: Watch = Watch(),
    grace: float = processes.GRACE,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Runs a command to its end, passing on what it appends to its progress file.

    Where this process is told to end, the program is told too, and has `grace` seconds for its checkpoint. Telling this process
    once more ends it at once.

    Args:
        job: of the stage that runs it.
        command: its command line.
        progress: the file of JSON lines that it appends to.
        timeout: seconds that it may take; None: any.
        watch: is told how it goes.
        grace: seconds between the signal to end and the end.
        variables: are added to its environment.

    Raises:
        UserError: it ended with the explanation of a user's mistake, on whichever rank.
        ProgramFailed: it ended with another error, was stopped, or ran past `timeout` seconds.
    """
    reap(job.work / "pid.json")
    program_files.clear(job.work)
    log = job.work / "log.txt"
    seen = whole_size(progress)  # a half line at its end is removed by the program
    started = time.monotonic()
    job.log.info("%s: %s (log: %s)", job.order.label, " ".join(command), log)
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment(job.work, grace, job.order), **(variables or {})},
            start_new_session=True,
        )
    told: Callable[[], None] | None = None
    try:
        left = {**processes.here(process.pid), "owner": processes.here(os.getpid()), "grace": grace}
        write_json(job.work / "pid.json", left)
        while process.poll() is None:
            time.sleep(EVERY)
            seen = _pass_on(job, progress, seen, watch.at)
            watch.look()
            if timeout and time.monotonic() - started > timeout:
                raise ProgramFailed(f"{job.order.label}: ended after its time limit of {timeout:.0f} s")
    except BaseException as error:
        told = None if isinstance(error, Exception) else watch.stopping
        raise
    finally:  # also where the run is cancelled: nothing of the group may outlive it
        try:
            end(process.pid, grace, told)
        finally:
            (job.work / "pid.json").unlink(missing_ok=True)
    _pass_on(job, progress, seen, watch.at)
    explain(job.work, job.order.label, process.returncode, log)


def end(group: int, grace: float, meanwhile: Callable[[], None] | None = None) -> None:
    """Ends a program in order, and at once where this process is told to end a second time.

    A thread does it, so that the signal to the program is sent once. Prefect's worker signals a run twice at a time.

    Args:
        group: the id of its process group.
        grace: seconds that it has.
        meanwhile: is called once while it ends.
    """
    thread = threading.Thread(target=processes.end, args=(group, grace + MARGIN), daemon=True)
    thread.start()
    began = time.monotonic()
    while thread.is_alive() or meanwhile:
        try:
            if meanwhile:
                call, meanwhile = meanwhile, None
                call()
            thread.join(EVERY)
        except BaseException:
            if time.monotonic() - began > TWICE:
                processes.end(group, 0)
                raise


def explain(work: Path, label: str, code: int, log: Path) -> None:
    """Raises what a program's end means: its error file counts more than its exit code, which torchrun changes.

    Args:
        work: the folder of its status and error files.
        label: of its stage.
        code: its exit code.
        log: its output.

    Raises:
        UserError: it ended with the explanation of a user's mistake, on whichever rank.
        ProgramFailed: it ended with another error, or was stopped.
    """
    if not code:
        return
    failed = program_files.failure(work)
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:])
    if failed and failed.kind == "user":
        raise UserError(f"{label}: {failed.message}")
    if not failed and code == program_files.USER_ERROR:  # it could not write the file
        raise UserError(f"{label}: {tail}")
    if failed:
        raise ProgramFailed(
            f"{label}: rank {failed.rank} on {failed.host} failed: {failed.message}\n{failed.advice} Whole log: {log}"
        )
    said = program_files.status(work)
    if said.get("state") == "stopped":
        raise ProgramFailed(
            f"{label}: it was told to stop, and did after step {said['step']} of {said['total']}; "
            f"{said['checkpoint']} is complete, and the next start goes on from it"
        )
    raise ProgramFailed(f"{label}: the program ended with status {code}; whole log: {log}\n{tail}")


def reap(pid_file: Path) -> bool:
    """Ends the process group that a killed run left behind, and waits until it has ended.

    On this host it is told to, if it is still that very process. One of another host ends by itself, with a checkpoint,
    since its starter is gone: it is waited for.

    Raises:
        ProgramFailed: a program of another host shows signs of life for longer than its grace.
    """
    try:
        left = json.loads(pid_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    found = processes.runs_here(left)
    if found:
        processes.end(left["pid"], left.get("grace", 0) + MARGIN)
    elif left["host"] != socket.gethostname():
        _wait_for_other_host(pid_file.parent, left)
    pid_file.unlink(missing_ok=True)
    return found


def _wait_for_other_host(work: Path, left: Mapping[str, Any]) -> None:
    """Returns once a program of another host shows no sign of life for a while. Clocks may differ: changes count."""
    file = work / program_files.STATUS
    if not file.exists():
        return
    began = changed = time.monotonic()
    last = file.stat().st_mtime_ns
    while time.monotonic() - changed < BEATS:
        time.sleep(EVERY)
        if (now := file.stat().st_mtime_ns) != last:
            last, changed = now, time.monotonic()
        if time.monotonic() - began > left.get("grace", 0) + 2 * BEATS:
            raise ProgramFailed(
                f"{work.name}: its program still runs on {left['host']} (process {left['pid']}), whose run is gone; end it "
                "there, and start again"
            )


def environment(work: Path, grace: float, order: Order | None = None) -> dict[str, str]:
    """Ours, with one thread a rank on the CPU, and what a program has to know of its starter.

    Args:
        work: the folder of its status and error files.
        grace: seconds between the signal to end and its end.
        order: what it makes; None where nothing is told to trackers.
    """
    own = {
        "PYTHONUNBUFFERED": "1",
        **commands.sources(),
        **processes.mark(),
        **program_files.environment(work, grace),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": f"{grace + MARGIN:.0f}",  # torchrun kills its ranks then
    }
    # Steps go where the run's scores go (sifthinker/reporting/trackers.py), and outlast the work folder.
    root = work.parent.parent
    trackers = {"MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow.sqlite'}", "WANDB_DIR": str(root)}
    trackers |= _named(order) if order else {}
    unset = {name: value for name, value in trackers.items() if not os.environ.get(name)}
    return {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ, **unset, **own}


def _named(order: Order) -> dict[str, str]:
    """How W&B and MLflow call a training's steps: in the project of its run's scores, and not by a name of their own choice."""
    name = f"{order.config.name} {order.label} {order.key[:8]}"
    return {
        "WANDB_PROJECT": order.config.name,
        "WANDB_NAME": name,
        "MLFLOW_EXPERIMENT_NAME": order.config.name,
        "MLFLOW_RUN_CONTEXT": json.dumps({"mlflow.runName": name}),  # tags, and that is the name's
    }


def _pass_on(job: Job, progress: Path, seen: int, at: Callable[[int], None]) -> int:
    """Shows the whole lines that were appended since `seen` bytes; returns the new position."""
    if not progress.exists():
        return seen
    with progress.open("rb") as file:
        file.seek(seen)
        new = file.read()
    whole = new[: new.rfind(b"\n") + 1]
    for step in parsed(whole.splitlines()[-1:], progress):
        job.progress.total = step["total"]
        shown = {k: v for k, v in step.items() if k in ("loss", "reward", "kl") and v is not None}
        job.progress.at(step["step"], " ".join(f"{name} {value:.3g}" for name, value in shown.items()))
        at(step["step"])
    return seen + len(whole)
