"""A training program whose rank 1 makes a user's mistake while rank 0 waits for it in a collective operation."""

from pathlib import Path

import torch

from sifthinker.core.errors import UserError
from sifthinker.training import harness, ranks


def main(path: Path) -> None:
    torch.distributed.init_process_group("gloo")
    ranks.barrier()
    if ranks.rank() == 1:
        raise UserError(f"{path}: rank 1 has no patience; give it some")
    ranks.barrier()


if __name__ == "__main__":
    harness.main(main)
