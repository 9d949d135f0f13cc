"""The SFT program, and its rehearsal, with two workers of the data loader, as it has four beside a GPU."""

from pathlib import Path
from typing import Any

import trl
import yaml

from sifthinker.training import harness, rehearsal, sft

made = trl.SFTConfig


def with_workers(**arguments: Any) -> Any:
    return made(**{**arguments, "dataloader_num_workers": 2})


def main(path: Path) -> None:
    trl.SFTConfig = with_workers
    rehearsed = "rehearses" in yaml.safe_load(path.read_text(encoding="utf-8"))
    (rehearsal if rehearsed else sft).main(path)


if __name__ == "__main__":
    harness.main(main)
