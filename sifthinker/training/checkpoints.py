"""The checkpoints of a training: which are complete, whose they are, and the one that is made when it is told to stop."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sifthinker import config
from sifthinker.config import Section
from sifthinker.core.errors import UserError
from sifthinker.system import program_files
from sifthinker.system.files import sync, sync_tree, write_json
from sifthinker.training import stopping
from sifthinker.training.ranks import barrier, rank

logger = logging.getLogger(__name__)
COMPLETE = "complete.json"


def last_complete(work: Path) -> Path | None:
    """The newest complete checkpoint in `work`; rank 0 removes the incomplete ones, so that nothing builds on them."""
    complete = []
    for folder in work.glob("checkpoint-*"):
        if is_complete(folder):
            complete.append(folder)
        elif rank() == 0:
            logger.warning("%s is incomplete and passed over", folder.name)
            shutil.rmtree(folder)
    return max(complete, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def is_complete(folder: Path) -> bool:
    """Whether a checkpoint has every file that it was marked complete with, at its size.

    A mark that cannot be read is none: a power loss leaves an empty file where it was not on the disk yet.
    """
    try:
        sizes = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (FileNotFoundError, ValueError):
        return False


class Checkpoints(TrainerCallback):
    """Adds files of our own to each checkpoint (`extra(folder)`, on rank 0) and then marks it complete.

    A training that is told to stop (`stopping`) makes a checkpoint after the step under way, and ends.

    Where several steps use the same completions (`grpo.iterations`), a checkpoint waits for the last of them, and so does a stop:
    TRL keeps the completions in memory only. A training that went on between two of those steps would sample others, and the
    book would hold the scores of both.
    """

    def __init__(self, extra: Callable[[Path], None] = lambda folder: None) -> None:
        """Adds nothing unless `extra` does."""
        self.extra = extra
        self.stops = False
        self.due = False  # a checkpoint, at the next step after which one can be made
        self.stepped: float | None = None  # when the last step ended
        self.seconds: dict[str, float] = {}  # of the last step and of the last checkpoint
        self.warned = False

    def on_train_begin(self, args, state, control, **kwargs):
        """Refuses a checkpoint of an earlier version that lies between steps by the same completions.

        A resumed training takes its intervals (`save_steps`) from its settings: the Trainer would take those that the
        checkpoint was made with.

        Raises:
            UserError: it does.
        """
        state.compute_steps(args, state.max_steps)
        if not _can_be_left(args, state):
            raise UserError(
                f"{args.output_dir}/checkpoint-{state.global_step}: it lies within the {args.num_iterations} steps by the same "
                "completions (grpo.iterations), where no training can go on; remove this folder, and start again"
            )

    def on_step_end(self, args, state, control, **kwargs):
        """Asks for a checkpoint where a rank was told to stop; the last step has its own."""
        now = time.monotonic()
        if self.stepped is not None:
            self.seconds["step_seconds"] = now - self.stepped
        self.stepped = now
        stopping.watch().can_save.set()
        told = stopping.agreed(args.device) and state.global_step < state.max_steps
        self.due = self.due or control.should_save or told
        control.should_save = self.due and _can_be_left(args, state)
        self.due = self.due and not control.should_save
        self.stops = told and control.should_save
        self._say(state, "stopping" if told else "training")

    def on_save(self, args, state, control, **kwargs):
        """Completes the checkpoint that the Trainer has just written.

        Raises:
            Stopped: the training was told to stop.
        """
        barrier()  # every rank has written its part
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero:
            self.extra(folder)
            files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != COMPLETE)
            sync_tree(folder)  # before the mark: after a power loss, what is marked is there with its content
            write_json(folder / COMPLETE, {str(f.relative_to(folder)): f.stat().st_size for f in files})
            sync(folder)
            self._measure(state, _steps(args))
        if self.stops:
            self._say(state, "stopped", checkpoint=folder.name)
            barrier()  # a rank that ended earlier would look like one that is lost
            raise program_files.Stopped(
                f"stopped after step {state.global_step} of {state.max_steps}; {folder.name} is complete, and the next "
                "start goes on from it"
            )

    def _say(self, state, what, **more):
        if state.is_world_process_zero:
            program_files.write_status(
                "training", what, step=state.global_step, total=state.max_steps, **more, **self.seconds
            )

    def _measure(self, state, steps):
        """Warns once where so many steps and a checkpoint take longer than a stop may."""
        if self.stepped is None:
            return
        now = time.monotonic()
        self.seconds["checkpoint_seconds"] = now - self.stepped
        self.stepped = now
        needed = self.seconds["checkpoint_seconds"] + steps * self.seconds.get("step_seconds", 0.0)
        grace = stopping.watch().grace
        if needed > grace and not self.warned:
            self.warned = True
            logger.warning(
                "%s and a checkpoint take %.0f s, and a training that is told to stop has %.0f s: the steps since "
                "the last checkpoint would be lost. Raise `grace` of this stage, and the grace of its container",
                "a step" if steps == 1 else f"{steps} steps by the same completions",
                needed,
                grace,
            )


def _steps(args: Any) -> int:
    """The optimiser steps by the same completions, in TRL's arguments; SFT has none."""
    steps: int = getattr(args, "num_iterations", 1)
    return steps


def _can_be_left(args: Any, state: Any) -> bool:
    """Whether a training can end after the step that was made, and go on from there."""
    return state.global_step % _steps(args) == 0 or state.global_step >= state.max_steps


def check_identity(work: Path, settings: Section) -> None:
    """Refuses a work folder that holds another configuration's checkpoints.

    Raises:
        UserError: `work/identity.json` is there and differs.
    """
    file = work / "identity.json"
    now = json.loads(json.dumps(config.identity(settings), default=str))
    if file.exists() and json.loads(file.read_text(encoding="utf-8")) != now:
        raise UserError(
            f"{work}: holds checkpoints of another configuration; give another `work` or empty it"
        )
    barrier()
    if rank() == 0 and not file.exists():
        write_json(file, now)
