"""Whether what was sampled is what the trainer would sample: the log-probabilities of the two, held against each other.

The difference is |log p(trainer) - log p(sampler)|, averaged over the sampled tokens of a rank. In fp32 it is about 1e-6 with
the same weights, and grows with every step that the sampler's weights are behind. It also holds what suppressed tokens
would have had: a random model, which likes picture tokens as much as others, differs by 1e-3 to 1e-2. TRL logs the mean over
the ranks (`samplers.GAP`), and its importance correction uses it, but goes on whatever it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from sifthinker.config import Grpo
from sifthinker.core.errors import UserError

LIMITS = {"fp32": 1e-3, "bf16": 0.05}  # by grpo.precision; of bf16 on GPUs nothing was measured here


def limit(settings: Grpo) -> float:
    """The largest difference that a training goes on with."""
    return LIMITS[settings.precision] if settings.max_logprob_gap is None else settings.max_logprob_gap


def difference(output: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The mean difference over this rank's sampled tokens, a scalar; infinite where no token can be compared.

    Args:
        output: TRL's outcome of a step's sampling: `completion_mask`, `old_per_token_logps` and
            `sampling_per_token_logps`, each (completions, tokens).
    """
    delta = (output["old_per_token_logps"] - output["sampling_per_token_logps"]).abs().float()
    delta = delta[output["completion_mask"].bool()]
    delta = delta[~delta.isnan()]  # tokens that vLLM gives no probability for
    return delta.mean() if delta.numel() else delta.new_tensor(math.inf)


def check(output: Mapping[str, torch.Tensor], trainer: Any, settings: Grpo) -> None:
    """Ends the training on every rank where the sampler is another model than the trainer's, on any.

    Raises:
        UserError: the difference is above `limit`.
    """
    everyone = trainer.accelerator.gather(difference(output).reshape(1))
    worst, bound = float(everyone.max()), limit(settings)
    if worst <= bound:
        return
    raise UserError(
        f"step {trainer.state.global_step + 1}: the log-probabilities of the sampled tokens differ by {worst:.3g} between "
        f"the trainer and {settings.generation} (rank {int(everyone.argmax())}), more than {bound:g} "
        "(grpo.max_logprob_gap). The completions are not those of the policy that is trained: compare data types, and "
        "the versions of vLLM and transformers, or set grpo.generation: transformers. Start again to go on from the last "
        "checkpoint"
    )
