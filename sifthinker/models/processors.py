"""The policies' processors: a conversation and its images as tensors, with the pixel budget applied in one place."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from PIL import Image
from transformers import AutoProcessor, ProcessorMixin

from sifthinker.core.errors import UserError
from sifthinker.models import families
from sifthinker.models.families import FAMILIES, Family


def load_processor(path: Path, max_pixels: int | None = None) -> Any:
    """The processor of a policy's folder, with the pixel budget applied.

    This is the one place that applies the budget. It is saved with the processor, so a folder that was trained
    with it is served with it.

    Args:
        path: the model's folder.
        max_pixels: most pixels of an image that the model sees, after the resizing that keeps its aspect; none
            leaves what the folder says. LLaVA sees every image at one fixed size, and has no budget.

    Raises:
        UserError: the folder holds no processor that transformers knows, or that of no family.
    """
    install_processors()
    processor = AutoProcessor.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    if not isinstance(processor, ProcessorMixin):  # AutoProcessor's answer to a class that it does not know
        raise UserError(
            f"{path}: holds no image processor that transformers knows; copy the base model's here"
        )
    images = processor.image_processor
    if _family(processor, path).pictures == "budget":
        if max_pixels is not None:
            least = min(images.size["shortest_edge"], max_pixels)
            images.size = {"shortest_edge": least, "longest_edge": max_pixels}
    elif not getattr(images, "do_pad", False):
        # CLIP's processor cuts the centre square out, but boxes speak of the whole image. Pad it, as LLaVA-1.5 does.
        settings = {name: getattr(images, name) for name in ("size", "crop_size", "image_mean", "image_std")}
        processor.image_processor = transformers.LlavaImageProcessor(do_pad=True, **settings)
    return processor


def _family(processor: Any, path: Path) -> Family:
    name = type(processor).__name__
    for family in FAMILIES.values():
        if family.processor == name:
            return family
    known = ", ".join(family.processor for family in FAMILIES.values())
    raise UserError(f"{path}: no model family has the processor {name}; known are {known}")


def install_processors() -> None:
    """Lets processors that insist on a video processor load without torchvision, which that one insists on.

    torchvision exists only together with a CUDA torch. Our classes are subclasses of the same name and module without
    the video processor. The folders that they save load with the stock classes elsewhere. With torchvision this
    changes nothing.
    """
    if importlib.util.find_spec("torchvision") is not None:
        return
    for name, family in FAMILIES.items():
        if not family.video_processor:
            continue
        package = importlib.import_module(f"transformers.models.{name}")
        module = importlib.import_module(f"transformers.models.{name}.processing_{name}")
        stock = getattr(module, family.processor)
        if "video_processor" in inspect.signature(stock.__init__).parameters:
            for place in (transformers, package, module):
                setattr(place, family.processor, _without_video(stock, family.video_processor))


def _without_video(stock: Any, video_processor: str) -> Any:
    """A subclass of a Qwen processor whose parts, read off the signature of `__init__`, have no video processor."""

    def __init__(
        self: Any,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: Any = None,
        **kwargs: Any,  # what older folders say beside
    ) -> None:
        stock.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def to_dict(self: Any) -> dict[str, Any]:
        images = self.image_processor
        video = {name: getattr(images, name) for name in ("patch_size", "temporal_patch_size", "merge_size")}
        return {**stock.to_dict(self), "video_processor": {"video_processor_type": video_processor, **video}}

    return type(
        stock.__name__, (stock,), {"__init__": __init__, "to_dict": to_dict, "__module__": stock.__module__}
    )


def encode(processor: Any, messages: list[dict[str, Any]], images: Sequence[Image.Image]) -> Any:
    """The model's inputs for one conversation, a batch of one.

    Args:
        processor: of the model.
        messages: as `prompts.policy_messages` builds them; one that ends with the user's turn is opened for the
            model's answer.
        images: one per place-holder, in order.

    Returns:
        `input_ids` and `attention_mask` (1, tokens), `pixel_values` and what else the family's model takes.
    """
    text = processor.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=messages[-1]["role"] == "user"
    )
    return processor(text=[text], images=[[image.convert("RGB") for image in images]], return_tensors="pt")


def picture_tokens(processor: Any) -> list[int]:
    """The ids of the tokens that stand for pictures. Sampling suppresses them, since a text with one is broken."""
    vocabulary = processor.tokenizer.get_vocab()
    return [vocabulary[token] for token in families.picture_tokens() if token in vocabulary]
