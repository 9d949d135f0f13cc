"""The policies' processors: a conversation and its images as tensors.

What a family wants otherwise than its checkpoints say is applied here and nowhere else: the pixel budget, the chat
template, the token that ends an answer. It is saved with the processor, so that a folder that was trained is served
alike by whatever reads the folder.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import transformers
from PIL import Image
from transformers import AutoProcessor, ProcessorMixin

from sifthinker.core.errors import UserError
from sifthinker.models import families, folders
from sifthinker.models.families import FAMILIES, Family

_SPLITS = 6  # tiles along an edge: Idefics3's and SmolVLM's tokenizers name no more rows and columns


def load_processor(path: Path, max_pixels: int | None = None) -> Any:
    """The processor of a policy's folder, as its family is used here.

    Args:
        path: the model's folder.
        max_pixels: most pixels of an image that the model sees, after the resizing that keeps its aspect; none
            leaves what the folder says. Families that see every image at one fixed size have no budget.

    Raises:
        UserError: the folder is of no family, or its processor cannot be loaded.
    """
    family = FAMILIES[folders.family(path)]
    processor = published(path)
    if type(processor).__name__ != family.processor:
        raise UserError(
            f"{path}: its processor is {type(processor).__name__}, and its architecture ({family.model_type}) takes "
            f"{family.processor}; copy the base model's processor here"
        )
    if family.template:
        processor.chat_template = family.template
        if getattr(processor.tokenizer, "chat_template", None) is not None:
            processor.tokenizer.chat_template = family.template
    # Of a template that parses replies, TRL would give the rewards the parts, and not the text that was sampled.
    processor.tokenizer.response_template = None
    if processor.tokenizer.eos_token != family.end:
        if family.end not in processor.tokenizer.get_vocab():
            raise UserError(
                f"{path}: its tokenizer has no {family.end}, which ends an answer in this family; copy the base model's "
                "tokenizer files here"
            )
        processor.tokenizer.eos_token = family.end
    SIZES[family.pictures](processor, max_pixels)
    return processor


def published(path: Path) -> Any:
    """The processor as the folder has it, and as a server reads it that knows no families.

    Raises:
        UserError: it cannot be loaded.
    """
    install_processors()
    copy = "copy the base model's processor and tokenizer files here"
    try:
        processor = AutoProcessor.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a missing file or package, a class that there is not, broken JSON
        todo = "install what it names" if isinstance(error, ImportError) else copy
        raise UserError(
            f"{path}: its processor cannot be loaded ({type(error).__name__}: {error}); {todo}"
        ) from error
    if not isinstance(processor, ProcessorMixin):  # AutoProcessor's answer to a class that it does not know
        raise UserError(f"{path}: holds no image processor that transformers knows; {copy}")
    return processor


# --- how pictures are sized -------------------------------------------------------------------------------------


def _budget(processor: Any, max_pixels: int | None) -> None:
    images = processor.image_processor
    if max_pixels is not None:
        least = min(images.size["shortest_edge"], max_pixels)
        images.size = {"shortest_edge": least, "longest_edge": max_pixels}


def _square(processor: Any, _: int | None) -> None:
    images = processor.image_processor
    if not getattr(images, "do_pad", False):
        # CLIP's processor cuts the centre square out, but boxes speak of the whole image. Pad it, as LLaVA-1.5 does.
        settings = {name: getattr(images, name) for name in ("size", "crop_size", "image_mean", "image_std")}
        processor.image_processor = transformers.LlavaImageProcessor(do_pad=True, **settings)


def _tiles(processor: Any, max_pixels: int | None) -> None:
    images = processor.image_processor
    images.crop_to_patches = True  # TRL counts tiles with it
    if max_pixels is not None:
        images.max_patches = max(1, max_pixels // (images.size["height"] * images.size["width"]))
        images.min_patches = min(images.min_patches, images.max_patches)


def _split(processor: Any, max_pixels: int | None) -> None:
    images = processor.image_processor
    if max_pixels is not None:
        tile = images.max_image_size["longest_edge"]
        along = min(max(1, math.isqrt(max_pixels) // tile), _SPLITS)
        images.size = {"longest_edge": along * tile}
        images.do_image_splitting = along > 1


def _stretched(processor: Any, _: int | None) -> None:
    processor.image_processor.do_pan_and_scan = False  # TRL cannot tell whose crops are whose


# By `Family.pictures`: applies the pixel budget to a processor, in place.
SIZES: dict[str, Callable[[Any, int | None], None]] = {
    "budget": _budget,
    "square": _square,
    "tiles": _tiles,
    "split": _split,
    "stretched": _stretched,
}


def picture_lengths(processor: Any, sizes: Sequence[tuple[int, int]]) -> list[int]:
    """The tokens that stand for each picture of some sizes (height, width) in pixels, with what stands around them."""
    if hasattr(processor, "full_image_sequence"):  # Gemma 3: its count leaves out what stands around them
        whole = processor.tokenizer(processor.full_image_sequence, add_special_tokens=False)["input_ids"]
        return [len(whole)] * len(sizes)
    counting = type(processor)
    if not hasattr(
        processor, "_get_num_multimodal_tokens"
    ):  # SmolVLM: its pictures are written as Idefics3's
        counting = transformers.Idefics3Processor
    return list(counting._get_num_multimodal_tokens(processor, list(sizes))["num_image_tokens"])


# --- without torchvision ----------------------------------------------------------------------------------------


def install_processors() -> None:
    """Lets processors that insist on a video processor load without torchvision, which that one insists on.

    torchvision exists only together with a CUDA torch. Our classes are subclasses of the same name and module without
    the video processor. The folders that they save load with the stock classes elsewhere. With torchvision this
    changes nothing.
    """
    if importlib.util.find_spec("torchvision") is not None:
        return
    for family in FAMILIES.values():
        if not family.video_processor:
            continue
        stock = getattr(transformers, family.processor)
        if "video_processor" not in inspect.signature(stock.__init__).parameters:
            continue
        module = importlib.import_module(stock.__module__)
        package = importlib.import_module(stock.__module__.rpartition(".")[0])
        for place in (transformers, package, module):
            setattr(place, family.processor, _without_video(stock, family))


def _without_video(stock: Any, family: Family) -> Any:
    """A subclass of a processor whose parts, read off the signature of `__init__`, have no video processor."""
    settings = ("image_seq_length", "image_seq_len")  # tokens a tile, as InternVL's and SmolVLM's are told

    def __init__(
        self: Any,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: Any = None,
        image_seq_length: int | None = None,
        image_seq_len: int | None = None,
        **kwargs: Any,  # what older folders say beside
    ) -> None:
        told = dict(zip(settings, (image_seq_length, image_seq_len), strict=True))
        own = {name: tokens for name, tokens in told.items() if tokens is not None}
        stock.__init__(self, image_processor, tokenizer, None, chat_template=chat_template, **own)

    def to_dict(self: Any) -> dict[str, Any]:
        names = ("patch_size", "temporal_patch_size", "merge_size")
        video = {
            name: getattr(self.image_processor, name) for name in names if hasattr(self.image_processor, name)
        }
        return {
            **stock.to_dict(self),
            "video_processor": {"video_processor_type": family.video_processor, **video},
        }

    made: dict[str, Any] = {"__init__": __init__, "to_dict": to_dict, "__module__": stock.__module__}
    if family.model_type == "smolvlm":  # its chat template asks for them, of every conversation
        made["video_processor"] = SimpleNamespace(num_frames=None, fps=None)
    return type(stock.__name__, (stock,), made)


# --- tensors ----------------------------------------------------------------------------------------------------


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
    return processor(
        text=[text],
        images=[[image.convert("RGB") for image in images]],
        return_tensors="pt",
        add_special_tokens=False,  # the templates write a <s> themselves where there is one
    )


def picture_tokens(processor: Any) -> list[int]:
    """The ids of the tokens that stand for pictures. Sampling suppresses them, since a text with one is broken."""
    vocabulary = processor.tokenizer.get_vocab()
    known = [
        token for family in families.of_processor(type(processor).__name__) for token in family.picture_tokens
    ]
    return [vocabulary[token] for token in dict.fromkeys(known) if token in vocabulary]
