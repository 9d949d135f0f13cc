"""r_format: 1 where the completion is a chain, else 0 (PAPER.md P5.3).

Departures from the release (R5.1): the whole completion must be the chain, with one answer and
no empty area (`chain.parse`, strict). `release` accepts what the authors' validate_format accepts.
"""

from __future__ import annotations

from collections.abc import Sequence

from sifthinker.core import chain
from sifthinker.rewards.variant import Variant

READINGS = {"paper": "strict", "release": "release"}  # reward variant: how chain.parse reads


def reward(completions: Sequence[str], variant: Variant = "paper") -> list[float]:
    """r_format of each completion.

    Args:
        completions: texts of the model.
        variant: "paper" or "release".

    Returns:
        1.0 or 0.0 per completion, in order.

    Raises:
        KeyError: unknown variant.
    """
    return [float(chain.is_valid(completion, READINGS[variant])) for completion in completions]
