"""The checkpoints of a training: which are complete, and whose they are."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback

from sifthinker import config
from sifthinker.config import Section
from sifthinker.core.errors import UserError
from sifthinker.training.json_files import write_json
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
    """Whether a checkpoint has every file that it was marked complete with, at its size."""
    try:
        sizes = json.loads((folder / COMPLETE).read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except FileNotFoundError:
        return False


class Checkpoints(TrainerCallback):
    """Adds files of our own to each checkpoint (`extra(folder)`, on rank 0) and then marks it complete."""

    def __init__(self, extra: Callable[[Path], None] = lambda folder: None) -> None:
        """Adds nothing unless `extra` does."""
        self.extra = extra

    def on_save(self, args, state, control, **kwargs):
        """Completes the checkpoint that the Trainer has just written."""
        barrier()  # every rank has written its part
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self.extra(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        write_json(folder / COMPLETE, {str(f.relative_to(folder)): f.stat().st_size for f in files})


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
