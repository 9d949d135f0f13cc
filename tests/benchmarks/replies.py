"""Replies of the embedded server's model on one core: sixteen in a batch, against one after the other.

The model is the miniature, and each reply has 100 tokens, about a chain's length. Both ways give the same replies.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.benchmarks.pair import Pair, Work, equal

TOKENS = 100
TOGETHER = 16


def prepare(folder: Path, size: int) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (size, 6, 8, 3), dtype=np.uint8)
    for number, picture in enumerate(colours):
        Image.fromarray(picture).resize((224, 168), Image.Resampling.NEAREST).save(folder / f"{number}.png")


def asked(folder: Path, size: int) -> tuple[Any, list[Any]]:
    """The model, and for each picture its inputs, how to reply, and a flag that nobody sets."""
    import torch

    from sifthinker.core import prompts
    from sifthinker.models import generation, miniature

    torch.set_num_threads(1)
    policy = generation.Policy(miniature.folder("policy"))
    policy.model.generation_config.suppress_tokens += policy.ends  # replies of one length
    never, found = threading.Event(), []
    for number in range(size):
        messages = prompts.policy_messages("How many cubes are there?", depth_input=True)
        with Image.open(folder / f"{number}.png") as picture:
            for part in messages[0]["content"]:
                if part["type"] == "image":
                    part["image"] = picture.convert("RGB")
        sampling = generation.Sampling(TOKENS, temperature=0.5 * (number % 2), seed=number)
        found.append((policy.conversation(messages), sampling, never))
    return policy, found


def ours(folder: Path, size: int) -> Work:
    policy, wanted = asked(folder, size)

    def work() -> list[str]:
        made = []
        for first in range(0, size, TOGETHER):
            batch = wanted[first : first + TOGETHER]
            pairs = zip(batch, policy.together(batch), strict=True)
            made += [(together or policy.reply(*one)).text for one, together in pairs]
        return made

    return work


def one_by_one(folder: Path, size: int) -> Work:
    policy, wanted = asked(folder, size)
    return lambda: [policy.reply(*one).text for one in wanted]


PAIRS = [
    Pair(
        "32 replies of 100 tokens by the embedded server, one core",
        "one after the other",
        2.5, 32, 4, "replies", prepare, ours, one_by_one, equal, rounds=5,
    )
]  # fmt: skip
