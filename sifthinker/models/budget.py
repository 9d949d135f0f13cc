"""Weights that were not merged here: a folder that is served with the pixel budget and the template of the training.

A merged folder holds both in its processor. Any other one, the base model's for example, holds its publisher's: 12.8
million pixels in Qwen2.5-VL, pictures before all texts in LLaVA-1.5, thoughts of its own in Qwen3.5. Each server reads
the processor of the folder that it serves, so a folder is made beside the weights: links to the files, and a processor
as the trainings use it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sifthinker.models import folders
from sifthinker.models.families import FAMILIES
from sifthinker.models.vllm_command import MERGED

_REPLACED = ("chat_template", "special_tokens_map", "added_tokens")  # by what the processor's tokenizer saves


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


def prepares(folder: Path, knows: bool = True) -> str:
    """The digest of what a server of this folder makes of a conversation, in its processor and its tokenizer.

    Args:
        folder: of the model with its processor.
        knows: whether the server knows the families, as ours does. vLLM takes the folder's processor as it is.
    """
    processor = _served(folder, knows)
    said = json.dumps([_says(processor), _vocabulary(processor.tokenizer)], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()


def otherwise(served: Path, knows: bool, folder: Path, max_pixels: int) -> list[str]:
    """What a running server does otherwise with a conversation than one that is started for a model.

    A larger pixel budget is no difference in a family whose pictures are sent at their final size (`holds`).

    Args:
        served: the folder of the running server.
        knows: see `prepares`.
        folder: of the model with its processor.
        max_pixels: most pixels of a picture that the model may see.

    Raises:
        UserError: a folder has no processor that is known.
    """
    from sifthinker.models.processors import load_processor

    found, wanted = _served(served, knows), load_processor(folder, max_pixels)
    (*_, shows, own), (*_, shall, ours) = _says(found), _says(wanted)
    if FAMILIES[folders.family(folder)].pictures == "budget" and _longest(shows) > _longest(shall):
        shows = {**shows, "size": {**shows["size"], "longest_edge": _longest(shall)}}
    same = {
        "chat template": _template(found) == _template(wanted),
        "end of an answer": found.tokenizer.eos_token == wanted.tokenizer.eos_token,
        "pictures": (shows, own) == (shall, ours),
        "tokenizer": _vocabulary(found.tokenizer) == _vocabulary(wanted.tokenizer),
    }
    return [name for name, is_same in same.items() if not is_same]


def _served(folder: Path, knows: bool) -> Any:
    """The processor as a server of the folder has it; see `prepares`."""
    from sifthinker.models.processors import load_processor, published

    return load_processor(folder) if knows else published(folder)


def _longest(images: Mapping[str, Any]) -> int:
    """The pixel budget in the settings of an image processor that has one."""
    most: int = images["size"]["longest_edge"]
    return most


def _template(processor: Any) -> str | None:
    """The chat template that counts of a processor and its tokenizer."""
    return processor.chat_template or getattr(processor.tokenizer, "chat_template", None)


def _says(processor: Any) -> tuple[Any, ...]:
    """What a processor makes of a conversation, as far as it is not the tokenizer's vocabulary."""
    tokenizer = processor.tokenizer
    templates = (processor.chat_template, getattr(tokenizer, "chat_template", None))
    # Of its own settings: the tokens that stand for a picture, and how many there are of them.
    own = {
        name: value
        for name, value in vars(processor).items()
        if isinstance(value, (bool, int, str, list)) and name != "chat_template"
    }
    return (*templates, tokenizer.eos_token, processor.image_processor.to_dict(), own)


def _vocabulary(tokenizer: Any) -> str:
    """How a tokenizer reads a text."""
    whole = getattr(tokenizer, "backend_tokenizer", None)
    return whole.to_str() if whole is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)


def _is_of_a_processor(file: Path) -> bool:
    """Whether a file says how pictures, turns and ends are prepared; older folders say so in files of other names."""
    return "processor" in file.name or file.name.startswith(_REPLACED)
