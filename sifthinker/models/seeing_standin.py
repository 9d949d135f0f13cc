"""The stand-in for the annotator with the miniature's eyes: `python -m sifthinker.models.seeing_standin`.

It takes the options of `sifthinker.llm.standin` and serves the same. Its chains say what the miniature answers to
"What is at BOX?", about the photograph alone, so that no truth about the scenes gets into them. It is a stand-in for
seeing: the miniature knows rendered scenes and nothing else, and the question's answer is the prompt's.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from sifthinker.core import prompts
from sifthinker.llm.standin import __main__ as command
from sifthinker.llm.standin.seeing import Box
from sifthinker.models import miniature
from sifthinker.models.generation import picture
from sifthinker.models.loading import load_policy, load_processor

WHAT = "What is at {query}?"  # a lesson of the pre-training (pretraining.build)
_LONGEST = 8  # tokens: "small red cube" is three


class Eyes:
    """A policy that is asked what is at each box."""

    def __init__(self, folder: Path) -> None:
        """Loads the model."""
        self.processor = load_processor(folder)
        self.processor.tokenizer.padding_side = "left"
        self.model = load_policy(folder, "fp32").eval()

    @torch.inference_mode()
    def look(self, url: str, steps: list[list[Box]]) -> list[list[str]]:
        """What is at each box of each step; the first is the whole picture, which is not asked about."""
        boxes = [list(box) for box in dict.fromkeys(tuple(box) for step in steps[1:] for box in step)]
        if not boxes:
            return [["the whole"]]
        photo = picture({"type": "image", "url": url})["image"]
        asked = [
            self.processor.apply_chat_template(
                prompts.policy_messages(WHAT.format(query=json.dumps(box)), depth_input=False, think=False),
                tokenize=False,
                add_generation_prompt=True,
            )
            for box in boxes
        ]
        batch = self.processor(text=asked, images=[photo] * len(boxes), padding=True, return_tensors="pt")
        made = self.model.generate(**batch, max_new_tokens=_LONGEST, do_sample=False)
        replies = self.processor.batch_decode(
            made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        said = {tuple(box): " ".join(reply.split()) for box, reply in zip(boxes, replies, strict=True)}
        return [["the whole"], *([said[tuple(box)] for box in step] for step in steps[1:])]


def main() -> None:
    """The command line."""
    torch.set_num_threads(1)
    command.main(Eyes(miniature.folder("policy")).look)


if __name__ == "__main__":
    main()
