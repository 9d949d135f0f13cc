"""The cache that GRPO's samples are generated with gives what one that grows gives, and the same replies."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from sifthinker.config import Grpo
from sifthinker.core import prompts
from sifthinker.models import loading, miniature
from sifthinker.training.grpo import grpo_arguments

QUESTIONS = (  # padded on the left by different lengths, as a batch of GRPO is
    "What is it?",
    "How many spheres are in front of the large green cone at the left edge of the picture?",
    "Are there more cubes than spheres?",
)


def test_the_cache_of_samples_changes_no_reply() -> None:
    folder = miniature.folder("policy")
    processor = loading.load_processor(folder)
    processor.tokenizer.padding_side = "left"
    model = loading.load_policy(folder, "fp32").eval()
    colours = np.random.default_rng(0).integers(0, 256, (2 * len(QUESTIONS), 6, 6, 3), dtype=np.uint8)
    batch = processor(
        text=[
            processor.apply_chat_template(
                prompts.policy_messages(question, depth_input=True),
                tokenize=False,
                add_generation_prompt=True,
            )
            for question in QUESTIONS
        ],
        images=[Image.fromarray(picture).resize((168, 168), Image.Resampling.NEAREST) for picture in colours],
        padding=True,
        return_tensors="pt",
    )
    assert batch["attention_mask"].sum(1).unique().numel() > 1

    def replies(cache: str | None) -> tuple[torch.Tensor, torch.Tensor]:
        made = model.generate(
            **batch,
            max_new_tokens=24,
            min_new_tokens=24,
            do_sample=False,
            cache_implementation=cache,
            output_logits=True,
            return_dict_in_generate=True,
        )
        return made.sequences, torch.stack(made.logits)

    used = grpo_arguments(Grpo())["cache_implementation"]
    (growing, expected), (ours, logits) = replies(None), replies(used)
    assert torch.equal(growing, ours)
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=0)
