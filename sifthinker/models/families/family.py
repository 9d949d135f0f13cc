"""What the project has to know of a model family, and which layers LoRA trains in all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# The linear layers that LoRA trains, by their whole names: all of the language model's, and nothing of the vision tower,
# the projector, the embeddings and the head (release, train_grpo_sif.sh: all linear layers that are not "visual";
# LLaMA-Factory's default in SFT). The second row is Qwen3.5's linear attention.
TRAINED = (
    r".*\.(language_model|text_model)\.(.*\.)?"
    r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"
    r"|in_proj_qkv|in_proj_z|in_proj_b|in_proj_a|out_proj)"
)


@dataclass(frozen=True)
class Family:
    """What the project has to know of an architecture.

    Attributes:
        model_type: Of its checkpoints' config, in transformers.
        tower: `model_type` of the vision tower, where two families share a `model_type` and differ in the tower.
        processor: Name of the processor's class in transformers.
        pictures: How pictures are sized (`processors.SIZES`). "budget": at their aspect, under a number of pixels, with
            a token for each patch. "square": padded to a square of one size. "tiles": cut into squares of one size,
            as many as the budget holds. "split": the same, along a longest edge. "stretched": to a square of one size.
        picture_tokens: Tokens that stand for a picture. A model that writes one makes a text that no longer fits its
            images, so they are never sampled.
        frozen: Parts of the names of its vision tower and projector, on disk and in memory. LoRA leaves them alone.
        box_frame: The frame in which it was taught to write boxes. "resized": pixels of the picture as its processor
            resized it. "thousand": 0..1000 of the picture. "padded": 0..1 of the picture padded to a square. "image":
            none is documented, so boxes are read as they are asked for, 0..1 of the picture.
        side: Pixels; its processor makes the sides of a picture multiples of it. 1 where pictures are squares.
        end: The token that ends an answer. Some tokenizers name another one as their end of sequence.
        toy: The builder of a random model of the architecture, as module:function. It returns processor and config.
        template: The chat template that is used and saved in place of the checkpoint's; empty: the checkpoint's own.
        video_processor: Class that the processor insists on although no video is shown; it needs torchvision, so
            `processors.install_processors` goes without it.
    """

    model_type: str
    processor: str
    pictures: Literal["budget", "square", "tiles", "split", "stretched"]
    picture_tokens: tuple[str, ...]
    frozen: tuple[str, ...]
    box_frame: Literal["resized", "thousand", "padded", "image"]
    side: int
    end: str
    toy: str
    tower: str = ""
    template: str = ""
    video_processor: str = ""
