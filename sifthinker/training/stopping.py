"""A training that is told to stop makes a checkpoint first, with all its ranks in the same step.

Who tells it: SIGTERM (a cancelled or ended run, pre-emption, torchrun that passes it on), the first SIGINT, or the end
of the process that started it. Any rank may be told. After each optimiser step the ranks agree, so that all of them
write the checkpoint of one step: ZeRO-3 writes it together. So a stop costs nothing but the wait for the step under way, and
for those that follow by the same completions (`grpo.iterations`).

A thread of each rank watches meanwhile, because a signal handler in Python does not run while a collective operation
waits for a rank that is gone. It ends the process

* at once where there is nothing to save: no step was made yet, or torchrun is gone;
* after `SIF_GRACE` seconds where the checkpoint is not there by then;
* `processes.GRACE` seconds after another rank has failed (`error.json`, or a rank of this launcher is missing).

A signal to end goes to a rank's whole process group. The workers of its data loader are not to end with it, or the rank
has no batch for the step under way and fails before its checkpoint. So whatever a rank forks, except programs, gets a group of its own,
and ends with the rank.

transformers has `enable_jit_checkpoint`. It is not used: its ranks do not agree on the step, it saves in the middle of
one, and it leaves out what other callbacks add to a checkpoint (the book of scores, `complete.json`).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from sifthinker.system import processes, program_files
from sifthinker.training import ranks

STOPS = (signal.SIGTERM, signal.SIGINT)  # that tell a training to stop
BEAT = 5.0  # seconds between two signs of life
ENDED = 128 + signal.SIGTERM  # exit code of a program that was started by hand and ends without a checkpoint
TWICE = 1.0  # seconds between two SIGINT that are two: whoever started the program may pass on the terminal's


class Watch:
    """Watches one process of a training: whether it is told to stop, and whether it can still do so in order."""

    def __init__(self) -> None:
        """Watches nothing yet."""
        self.requested = threading.Event()
        self.can_save = threading.Event()  # a step was made: waiting for a checkpoint makes sense
        self.grace = program_files.grace()
        self._launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        self._error = _changed(program_files.folder())
        self._began = self._deadline = float("inf")
        self._beaten = 0.0
        self._read, self._write = socket.socketpair()
        self._forks = 0  # id of the process that forks

    def start(self) -> None:
        """Takes the signals and starts the thread. It has to be called by the main thread."""
        self._write.setblocking(False)
        self._read.settimeout(processes.EVERY)
        for number in STOPS:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        os.register_at_fork(before=self._fork, after_in_child=self._forked)
        threading.Thread(target=self._watch, daemon=True, name="stopping").start()

    def _watch(self) -> None:
        while True:
            with suppress(TimeoutError):
                numbers = self._read.recv(64)  # of signals, written whatever Python is waiting for
                for number in numbers:
                    self._signalled(number)
            self._look()
            if ranks.rank() == 0 and time.monotonic() - self._beaten > BEAT:
                self._beaten = time.monotonic()
                program_files.beat()
            if time.monotonic() > self._deadline:
                _end()

    def _fork(self) -> None:
        self._forks = os.getpid()

    def _forked(self) -> None:
        """In a new process, before anything else of it runs: no signal is missed, and none is taken for the rank's.

        A program that `subprocess` starts is left as it is: who leads a group cannot begin a session, as some ask for.
        """
        if sys._getframe(1).f_globals.get("__name__") == "subprocess":
            return
        signal.set_wakeup_fd(-1)
        os.setpgid(0, 0)
        processes.end_with(self._forks)

    def _signalled(self, number: int) -> None:
        if number not in STOPS:  # any with a handler comes here, and torch has one for SIGCHLD
            return
        if number == signal.SIGINT and time.monotonic() - self._began > TWICE:
            _end()
        self._stop()

    def _look(self) -> None:
        if self._launcher and os.getppid() != self._launcher:
            _end()
        if not processes.starter_lives():
            self._stop()
        failed = _changed(program_files.folder()) != self._error
        if failed or (self.requested.is_set() and self._launcher and _missing(self._launcher)):
            self._deadline = min(self._deadline, time.monotonic() + processes.GRACE)

    def _stop(self) -> None:
        if not self.can_save.is_set():
            _end()
        if not self.requested.is_set():
            self._began = time.monotonic()
            self._deadline = min(self._deadline, self._began + self.grace)
            self.requested.set()


_current: Watch | None = None


def watch() -> Watch:
    """The watch of this process. It takes signals only where `start` was called."""
    global _current
    if _current is None:
        _current = Watch()
    return _current


def agreed(device: torch.device) -> bool:
    """Whether any rank was told to stop. Every rank calls it after the same step, and all get one answer."""
    told = watch().requested.is_set()
    if not torch.distributed.is_initialized():
        return told
    flag = torch.tensor(float(told), device=device)
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
    return bool(flag.item())


def _changed(folder: Path | None) -> tuple[int, int] | None:
    """What tells two versions of the folder's `error.json` apart; None where there is none."""
    try:
        found = (folder / program_files.ERROR).stat() if folder else None
    except OSError:  # not there, or a network file system that is away for a moment: the watch must go on
        return None
    return (found.st_ino, found.st_mtime_ns) if found else None


def _missing(launcher: int) -> bool:
    """Whether a rank of torchrun has ended."""
    try:
        found = [child.status() for child in psutil.Process(launcher).children()]
    except psutil.NoSuchProcess:  # one of them has just gone
        return True
    return sum(status != psutil.STATUS_ZOMBIE for status in found) < int(os.environ["LOCAL_WORLD_SIZE"])


def _end() -> None:
    """Ends this process without any of its own code; with its group where another program has started it."""
    if processes.VARIABLE in os.environ:
        os.kill(0, signal.SIGKILL)
    os._exit(ENDED)
