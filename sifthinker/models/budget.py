"""The pixel budget of weights that were not merged here: a folder that is served with the budget of the training.

A merged folder holds the budget in its processor. Any other one, the base model's for example, holds its publisher's (12.8
million pixels in Qwen2.5-VL). Each server reads the processor of the folder that it serves, so a folder is made beside
the weights: links to the files, and a processor with the budget in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sifthinker.models.processors import load_processor


def budgeted(folder: Path, max_pixels: int, into: Path) -> Path:
    """A folder of the same weights whose processor holds the budget: `folder` itself where it does so already.

    Args:
        folder: of a policy with its processor.
        max_pixels: most pixels of a picture that the model may see.
        into: folder that is made, where one is needed; files of an earlier try are replaced.

    Raises:
        UserError: the folder has no processor that is known.
    """
    processor = load_processor(folder, max_pixels)
    if _size(processor) == _size(load_processor(folder)):
        return folder
    into.mkdir(parents=True, exist_ok=True)
    for old in into.iterdir():
        old.unlink()
    processor.save_pretrained(into)
    for file in folder.iterdir():
        if file.is_file() and not (into / file.name).exists() and not _is_of_a_processor(file):
            (into / file.name).symlink_to(file.resolve())
    return into


def holds(folder: Path, max_pixels: int) -> bool:
    """Whether a server of this folder shows its model no picture of more pixels."""
    size = _size(load_processor(folder))
    return size is None or size["longest_edge"] <= max_pixels


def _size(processor: Any) -> Any:
    """The pixel budget of a processor; None of one that sees all pictures at one size."""
    size = dict(processor.image_processor.size)
    return size if size.get("longest_edge") else None


def _is_of_a_processor(file: Path) -> bool:
    """Whether a file is one of those that say how pictures are prepared; older ones go by other names."""
    return "processor" in file.name
