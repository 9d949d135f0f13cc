"""The GRPO program with canned completions: a random model never writes a chain, so nothing would be rewarded.

Which of them is sampled is drawn from torch's global generator, as real sampling is; with `DEALT=1` it follows from the
prompt and the place in its group, whatever the ranks (which must hold whole groups). Run as a program it takes the
place of `python -m sifthinker.training.grpo`; with `REALLY_SAMPLE=1` the model samples too, and is not listened to.
"""

import os

import torch

from sifthinker.training import grpo, harness

CHAIN = (
    '<think>\n<area>[{{"bbox_2d": [0.0, 0.0, 1.0, 1.0], "depth": {whole}}}]</area>\n<text>A wall.</text>\n'
    '<area>[{{"bbox_2d": {box}, "depth": {depth}}}]</area>\n<text>A patch.</text>\n</think>\n'
    "<answer>\n{answer}\n</answer>"
)
WHOLE = 0.608  # mean depth of the pictures in conftest.py, and of the patch in them
TEXTS = [
    CHAIN.format(whole=WHOLE, box=[0.071, 0.286, 0.429, 0.714], depth=0.155, answer="green"),
    CHAIN.format(whole=WHOLE, box=[0.571, 0.286, 0.929, 0.714], depth=0.155, answer="red"),
    CHAIN.format(whole=0.2, box=[0.1, 0.1, 0.5, 0.5], depth=0.9, answer="blue"),
    "<answer>yellow</answer>",  # no chain, but an answer for the judge
    "nothing of use",
]


def sample(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
    assert not images or all(len(pictures) == 2 for pictures in images)
    tokenizer = self.processing_class.tokenizer
    picks = torch.randint(len(TEXTS), (len(prompt_ids),)).tolist()
    if "DEALT" in os.environ:
        picks = [
            (sum(ids) + place % self.num_generations) % len(TEXTS) for place, ids in enumerate(prompt_ids)
        ]
    return [
        tokenizer(TEXTS[pick], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        for pick in picks
    ], None


really_sample = grpo.Trainer._generate_single_turn


def both(self, *args, **kwargs):
    ids, _ = really_sample(self, *args, **kwargs)
    assert all(ids)
    return sample(self, *args, **kwargs)


class Rewarding(grpo.Trainer):
    """What a completion earns is its place in the group, so that completions which are no chains teach something."""

    def _calculate_rewards(self, inputs, *args, **kwargs):
        rewards = super()._calculate_rewards(inputs, *args, **kwargs)
        return rewards + torch.arange(len(rewards))[:, None] % 4


if __name__ == "__main__":
    grpo.Trainer._generate_single_turn = both if "REALLY_SAMPLE" in os.environ else sample
    harness.main(grpo.main)
