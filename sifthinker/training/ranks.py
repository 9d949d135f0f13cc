"""The ranks of a training: the processes that torchrun starts, one a GPU."""

from __future__ import annotations

import os

import torch

from sifthinker.config import Train
from sifthinker.core.errors import UserError


def rank() -> int:
    """This process's number, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world() -> int:
    """The number of ranks on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def world() -> int:
    """The number of ranks."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_world(settings: Train) -> None:
    """Refuses a number of processes that is not the configured one, since it would change the batch unnoticed.

    Raises:
        UserError: the two differ; or one process without a launcher sees several GPUs, over which the trainer would cut its
            batch up.
    """
    if world() != settings.ranks:
        raise UserError(
            f"ranks: {settings.ranks} are configured and {world()} started; start the program with "
            f"`torchrun --nproc_per_node={settings.ranks}` (plain python for 1) or change `ranks`"
        )
    gpus = torch.cuda.device_count()
    if gpus > 1 and settings.deepspeed == "none" and "WORLD_SIZE" not in os.environ:
        raise UserError(
            f"ranks: 1 process is started and sees {gpus} GPUs; it trains on one: set CUDA_VISIBLE_DEVICES=0 (or another), "
            f"or start it with `torchrun --nproc_per_node=1`"
        )


def barrier() -> None:
    """Returns when every rank is here."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
