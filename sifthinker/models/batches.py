"""Several replies made in one batch, each as it would be alone.

On a processor a step of a small model costs little more for sixteen replies than for one. But the last bits of a logit
depend on the shapes that are multiplied, so a choice between two tokens that are nearly level could fall otherwise. A
reply with such a choice ends there, and its caller makes it alone. So what is asked at the same time changes no reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from sifthinker.models.workers import Flag

# Between the best two tokens, as a difference of logits (of logits / temperature, with the draw, where it is sampled).
# In fp32 the miniature's differ by up to 2e-5 between a batch and a reply alone.
CLOSE = 5e-4


@dataclass(frozen=True, slots=True)
class Wanted:
    """One reply of a batch.

    Attributes:
        inputs: Of the model, for one conversation: tensors with one row, and those of its pictures.
        most: Tokens of the reply.
        temperature: 0 takes the best token.
        seed: Of the draws.
        gone: Once it is set, the reply is not needed.
    """

    inputs: Any
    most: int
    temperature: float
    seed: int
    gone: Flag


def replies(
    model: Any, config: GenerationConfig, wanted: Sequence[Wanted], ends: Sequence[int]
) -> list[list[int] | None]:
    """The tokens of each reply; None where it has to be made alone, or is not needed any more.

    Args:
        model: on the CPU, in fp32.
        config: neutral: how tokens are chosen is told by each of `wanted`.
        wanted: the replies, all of one `kind`.
        ends: tokens that end a reply.
    """
    inputs = padded([one.inputs for one in wanted], config.pad_token_id)
    length = inputs["input_ids"].shape[1]
    config.do_sample = False  # `_Choosing` draws
    config.max_new_tokens = max(one.most for one in wanted)
    choosing = _Choosing(wanted, length, ends)
    made = model.generate(
        **inputs,
        generation_config=config,
        logits_processor=LogitsProcessorList([choosing]),
        stopping_criteria=StoppingCriteriaList([_Over(choosing)]),
    )
    found: list[list[int] | None] = []
    for row, (one, tokens) in enumerate(zip(wanted, made[:, length:].tolist(), strict=True)):
        own = tokens[: one.most]
        end = next((place + 1 for place, token in enumerate(own) if token in ends), len(own))
        found.append(None if choosing.close[row] or one.gone.is_set() else own[:end])
    return found


def kind(inputs: Any) -> frozenset[tuple[str, tuple[int, ...]]]:
    """What the inputs of two conversations have to have in common to be in one batch: names, and the shape of a picture."""
    return frozenset(
        (name, () if part.shape == inputs["input_ids"].shape else tuple(part.shape[1:]))
        for name, part in inputs.items()
    )


def padded(rows: Sequence[Any], pad: int | None) -> dict[str, torch.Tensor]:
    """The inputs of several conversations as one: what has an entry for each token is filled up on the left.

    Args:
        rows: inputs of one conversation each, of one `kind`.
        pad: the token that fills up.
    """
    longest = max(row["input_ids"].shape[1] for row in rows)
    whole: dict[str, torch.Tensor] = {}
    for name, first in rows[0].items():
        if first.shape == rows[0]["input_ids"].shape:
            fill = (pad or 0) if name == "input_ids" else 0
            parts = [
                torch.nn.functional.pad(row[name], (longest - row[name].shape[1], 0), value=fill)
                for row in rows
            ]
        else:  # pictures, one after the other
            parts = [row[name] for row in rows]
        whole[name] = torch.cat(parts)
    return whole


class _Choosing(LogitsProcessor):  # type: ignore[misc]
    """Leaves the best token where it is, or puts the drawn one there; notes where another was nearly as good.

    A draw is that of `torch.multinomial`: the token with the largest share of its probability in an exponential number.
    So one seed gives the same reply as alone.
    """

    def __init__(self, wanted: Sequence[Wanted], length: int, ends: Sequence[int]) -> None:
        self.wanted, self.length = wanted, length
        self.ends = torch.tensor(list(ends))
        self.close = torch.zeros(len(wanted), dtype=torch.bool)
        self.over = torch.zeros(len(wanted), dtype=torch.bool)
        self._most = torch.tensor([one.most for one in wanted])
        self._draws = [torch.Generator().manual_seed(one.seed) if one.temperature else None for one in wanted]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        for row, (one, draw) in enumerate(zip(self.wanted, self._draws, strict=True)):
            if draw is not None and not self.over[row]:
                scores[row] = _drawn(scores[row : row + 1] / one.temperature, draw)
        first, second = scores.topk(2).values.unbind(-1)
        self.close |= (first - second < CLOSE) & ~self.over
        return scores

    def look(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Which replies are over, after the token that was just chosen."""
        gone = torch.tensor([one.gone.is_set() for one in self.wanted])
        full = input_ids.shape[1] - self.length >= self._most
        self.over |= torch.isin(input_ids[:, -1], self.ends) | full | gone | self.close
        return self.over


def _drawn(scores: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Of one row, shape (1, tokens): the logarithm of what `torch.multinomial` takes the largest of."""
    share = scores.softmax(-1)
    return (share / torch.empty_like(share).exponential_(1, generator=draw)).log()[0]


class _Over(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, choosing: _Choosing) -> None:
        self.choosing = choosing

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return self.choosing.look(input_ids)
