"""Whether what was sampled is what the trainer would sample: the log-probabilities of the two, held against each other.

The difference is |log p(trainer) - log p(sampler)|, averaged over the sampled tokens of a rank. In fp32 it is about 1e-6 with
the same weights, and grows with every step that the sampler's weights are behind. It also holds what suppressed tokens
would have had: a random model, which likes picture tokens as much as others, differs by 1e-3 to 1e-2. TRL logs the mean over
the ranks (`samplers.GAP`), and its importance correction uses it, but goes on whatever it is.

In bf16 rounding alone makes a difference, and a rank may have two short completions in a step. So there a step is judged by itself
only where it is far beyond rounding, and else with the steps before it.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch

from sifthinker.config import Grpo
from sifthinker.core.errors import UserError

logger = logging.getLogger(__name__)
STEPS = 10  # whose tokens are taken together
FAR = {
    "fp32": 1.0,
    "bf16": 5.0,
}  # times the limit: what ends a training in one step; fp32's rounding is a thousandth of its limit
LIMITS = {"fp32": 1e-3, "bf16": 0.05}  # by grpo.precision; of bf16 on GPUs nothing was measured here


def limit(settings: Grpo) -> float:
    """The largest difference that a training goes on with."""
    return LIMITS[settings.precision] if settings.max_logprob_gap is None else settings.max_logprob_gap


def difference(output: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Over this rank's sampled tokens: the sum of the differences, how many can be compared, and how many there are: (3,).

    Those of a cut-off completion are none of them where `grpo.mask_truncated` leaves it out.

    Args:
        output: TRL's outcome of a step's sampling: `completion_mask`, `old_per_token_logps` and
            `sampling_per_token_logps`, each (completions, tokens).
    """
    delta = (output["old_per_token_logps"] - output["sampling_per_token_logps"]).abs().float()
    delta = delta[output["completion_mask"].bool()]
    known = delta[~delta.isnan()]  # without tokens that vLLM gives no probability for
    return torch.stack([known.sum(), *delta.new_tensor([float(known.numel()), float(delta.numel())])])


class Agreement:
    """The differences of the last steps, of every rank; a resumed training begins with none."""

    def __init__(self, settings: Grpo) -> None:
        """Begins without any step.

        Args:
            settings: of the training.
        """
        self.settings = settings
        self.bound = limit(settings)
        self._last: deque[torch.Tensor] = deque(maxlen=STEPS)  # (ranks, 3): see `difference`

    def check(self, output: Mapping[str, torch.Tensor], trainer: Any) -> None:
        """Ends the training on every rank where the sampler is another model than the trainer's, on any.

        Args:
            output: as in `difference`.
            trainer: TRL's; its `accelerator` gathers, and its `state` knows the step.

        Raises:
            UserError: a rank's mean difference is above the limit over the last `STEPS` steps, or far above it in this one.
        """
        everyone = trainer.accelerator.gather(difference(output).reshape(1, 3)).cpu()
        self._last.append(everyone)
        step, far = trainer.state.global_step + 1, FAR[self.settings.precision] * self.bound
        worst, rank = _worst(everyone)
        if worst > far:
            self._end(step, worst, rank, far)
        if worst > self.bound:
            logger.warning(
                "step %d: the log-probabilities of rank %d differ by %.3g from those of %s, more than %g (grpo.max_logprob_gap); "
                "the training ends if the mean of %d steps does",
                *(step, rank, worst, self.settings.generation, self.bound, STEPS),
            )
        together, rank = _worst(torch.stack([*self._last]).sum(0))
        if len(self._last) == STEPS and together > self.bound:
            self._end(step, together, rank, self.bound, f" over {STEPS} steps")

    def _end(self, step: int, found: float, rank: int, bound: float, over: str = "") -> None:
        raise UserError(
            f"step {step}: the log-probabilities of the sampled tokens differ by {found:.3g}{over} between the trainer and "
            f"{self.settings.generation} (rank {rank}), more than {bound:g} (grpo.max_logprob_gap). The completions are not those "
            "of the policy that is trained: compare data types, and the versions of vLLM and transformers, or set "
            "grpo.generation: transformers. Start again to go on from the last checkpoint"
        )


def _worst(ranks: torch.Tensor) -> tuple[float, int]:
    """The largest mean difference of a rank, and the rank; infinite where it has tokens, and none can be compared."""
    without = torch.where(ranks[:, 2] > 0, math.inf, 0.0)
    means = torch.where(ranks[:, 1] > 0, ranks[:, 0] / ranks[:, 1].clamp(min=1), without)
    return float(means.max()), int(means.argmax())
