"""Weights that were not merged here: a folder that is served with the pixel budget and the template of the training.

A merged folder holds both in its processor. Any other one, the base model's for example, holds its publisher's: 12.8
million pixels in Qwen2.5-VL, pictures before all texts in LLaVA-1.5, thoughts of its own in Qwen3.5. Each server reads
the processor of the folder that it serves, so a folder is made beside the weights: links to the files, and a processor
as the trainings use it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sifthinker.models import folders
from sifthinker.models.families import FAMILIES

_REPLACED = ("chat_template", "special_tokens_map", "added_tokens")  # by what the processor's tokenizer saves


MERGED = "summary.json"  # lies with the files of a merge


def budgeted(folder: Path, max_pixels: int, into: Path) -> Path:
    """A folder of the same weights with the processor of the trainings: `folder` itself where it has that already.

    Args:
        folder: of a policy with its processor.
        max_pixels: most pixels of a picture that the model may see.
        into: folder that is made, where one is needed; files of an earlier try are replaced.

    Raises:
        UserError: the folder has no processor that is known.
    """
    from sifthinker.models.processors import load_processor, published  # imports transformers

    processor = load_processor(folder, max_pixels)
    if _says(processor) == _says(published(folder)):
        return folder
    into.mkdir(parents=True, exist_ok=True)
    for old in into.iterdir():
        old.unlink()
    processor.save_pretrained(into)
    for file in folder.iterdir():
        if file.is_file() and not (into / file.name).exists() and not _is_of_a_processor(file):
            (into / file.name).symlink_to(file.resolve())
    return into


def as_merged(folder: Path, max_pixels: int, into: Path) -> Path:
    """As `budgeted`, but a folder that a merge has written is served with its own budget, that of its training.

    It is for those who ask a model without its configuration at hand (`sif ask`, `sif serve`).
    """
    return folder if (folder / MERGED).is_file() else budgeted(folder, max_pixels, into)


def holds(folder: Path, max_pixels: int) -> bool:
    """Whether a server of this folder shows its model no picture of more pixels."""
    from sifthinker.models.processors import load_processor

    images = load_processor(folder).image_processor
    most = _MOST[FAMILIES[folders.family(folder)].pictures](images)
    return most is None or most <= max_pixels


# By `Family.pictures`: the pixels of a picture that an image processor may show; None at its least or only size.
_MOST: dict[str, Callable[[Any], int | None]] = {
    "budget": lambda images: images.size["longest_edge"],
    "tiles": lambda images: (
        images.max_patches * images.size["height"] * images.size["width"] if images.max_patches > 1 else None
    ),
    "split": lambda images: images.size["longest_edge"] ** 2 if images.do_image_splitting else None,
    "square": lambda _: None,
    "stretched": lambda _: None,
}


def _says(processor: Any) -> tuple[Any, ...]:
    """What a processor makes of a conversation, as far as it is not the tokenizer's vocabulary."""
    tokenizer = processor.tokenizer
    templates = (processor.chat_template, getattr(tokenizer, "chat_template", None))
    return (*templates, tokenizer.eos_token, processor.image_processor.to_dict())


def _is_of_a_processor(file: Path) -> bool:
    """Whether a file says how pictures, turns and ends are prepared; older folders say so in files of other names."""
    return "processor" in file.name or file.name.startswith(_REPLACED)
