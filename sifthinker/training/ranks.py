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
        UserError: the two differ.
    """
    if world() != settings.ranks:
        raise UserError(
            f"ranks: {settings.ranks} are configured and {world()} started; start the program with "
            f"`torchrun --nproc_per_node={settings.ranks}` (plain python for 1) or change `ranks`"
        )


def barrier() -> None:
    """Returns when every rank is here."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
