"""The average of models that were trained from the same weights with different seeds (a model soup).

    python -m sifthinker.pretraining.average OUT FOLDER FOLDER ...

Two trainings of one part find different weights of equal quality; their average made fewer mistakes than either (the
miniature's README). Wortsman et al., 2022 (arXiv 2203.05482).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sifthinker.core.errors import UserError
from sifthinker.system import program_files

_WEIGHTS = "model.safetensors"


def average(out: Path, folders: list[Path]) -> None:
    """Writes the mean of the models' weights, in their types, beside the first one's other files.

    Args:
        out: a folder that is not there yet.
        folders: of models, at least two.

    Raises:
        UserError: `out` is there, or a folder holds no model, or one of another shape.
    """
    if out.exists():
        raise UserError(f"{out}: is there already; name another folder")
    for folder in folders:
        if not (folder / _WEIGHTS).is_file():
            raise UserError(f"{folder}: holds no {_WEIGHTS}")
    first, *others = (load_file(folder / _WEIGHTS) for folder in folders)
    shapes = {name: tensor.shape for name, tensor in first.items()}
    for folder, other in zip(folders[1:], others, strict=True):
        if {name: tensor.shape for name, tensor in other.items()} != shapes:
            raise UserError(f"{folder / _WEIGHTS}: has other tensors than {folders[0] / _WEIGHTS}")
    made = {
        name: torch.stack([of[name].float() for of in (first, *others)]).mean(0).to(tensor.dtype)
        for name, tensor in first.items()
    }
    temporary = out.with_name(f".{out.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for file in folders[0].iterdir():
        if file.is_file() and file.name not in (_WEIGHTS, "README.md"):
            shutil.copy(file, temporary)
    save_file(made, temporary / _WEIGHTS, metadata={"format": "pt"})
    temporary.rename(out)


def main(arguments: list[str] | None = None) -> None:
    """Averages the models of the command line."""
    parser = argparse.ArgumentParser(prog="python -m sifthinker.pretraining.average", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("out", type=Path, help="folder for the average; must not be there yet")
    parser.add_argument("folders", type=Path, nargs="+", help="folders of the models, two or more")
    given = parser.parse_args(arguments)
    if len(given.folders) < 2:
        parser.error("an average takes two models or more")
    program_files.run("average", lambda: average(given.out, given.folders))


if __name__ == "__main__":
    main()
