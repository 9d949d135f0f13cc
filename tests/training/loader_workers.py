"""The SFT program, and its rehearsal, with two workers of the data loader, as it has four beside a GPU."""

from pathlib import Path

import yaml

from sifthinker.training import harness, rehearsal, sft


def main(path: Path) -> None:
    sft.workers = lambda: 2
    rehearsed = "rehearses" in yaml.safe_load(path.read_text(encoding="utf-8"))
    (rehearsal if rehearsed else sft).main(path)


if __name__ == "__main__":
    harness.main(main)
