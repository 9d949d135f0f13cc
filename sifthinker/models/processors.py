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

# Tokens that stand for a picture: a model that writes one makes a text that no longer fits its images.
_PICTURE_TOKENS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<image>",
)


def load_processor(path: Path, max_pixels: int | None = None) -> Any:
    """The processor of a policy's folder, with the pixel budget applied.

    This is the one place that applies the budget. It is saved with the processor, so a folder that was trained
    with it is served with it.

    Args:
        max_pixels: most pixels of an image that the model sees, after the resizing that keeps its aspect; none
            leaves what the folder says. LLaVA sees every image at one fixed size, and has no budget.

    Raises:
        UserError: the folder holds no processor that transformers knows.
    """
    install_processors()
    processor = AutoProcessor.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    if not isinstance(processor, ProcessorMixin):  # AutoProcessor's answer to a class that it does not know
        raise UserError(
            f"{path}: holds no image processor that transformers knows; copy the base model's here"
        )
    images = processor.image_processor
    if hasattr(images, "merge_size"):  # the Qwen families
        if max_pixels is not None:
            least = min(images.size["shortest_edge"], max_pixels)
            images.size = {"shortest_edge": least, "longest_edge": max_pixels}
    elif not getattr(images, "do_pad", False):
        # CLIP's processor cuts the centre square out; boxes speak of the whole image. Pad it, as LLaVA-1.5 does.
        settings = {name: getattr(images, name) for name in ("size", "crop_size", "image_mean", "image_std")}
        processor.image_processor = transformers.LlavaImageProcessor(do_pad=True, **settings)
    return processor


def install_processors() -> None:
    """Lets the Qwen processors load without torchvision, which there is only together with a CUDA torch.

    The stock classes insist on a video processor, and that one on torchvision. Ours are subclasses of the same
    name and module without it; their folders load with the stock classes elsewhere. No effect with torchvision.
    """
    if importlib.util.find_spec("torchvision") is not None:
        return
    for family, name, video in (
        ("qwen2_vl", "Qwen2VLProcessor", "Qwen2VLVideoProcessor"),
        ("qwen2_5_vl", "Qwen2_5_VLProcessor", "Qwen2VLVideoProcessor"),
        ("qwen3_vl", "Qwen3VLProcessor", "Qwen3VLVideoProcessor"),
    ):
        package = importlib.import_module(f"transformers.models.{family}")
        module = importlib.import_module(f"transformers.models.{family}.processing_{family}")
        stock = getattr(module, name)
        if "video_processor" in inspect.signature(stock.__init__).parameters:
            for place in (transformers, package, module):
                setattr(place, name, _without_video(stock, video))


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
    """Ids of the tokens that stand for pictures; to be suppressed when sampling, since a text with one is broken."""
    vocabulary = processor.tokenizer.get_vocab()
    return [vocabulary[token] for token in _PICTURE_TOKENS if token in vocabulary]
