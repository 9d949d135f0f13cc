"""Whether a merged model answers as its base model with the adapter, and what the cast to its data type costs.

Four models are asked the same prompts, and their distributions of the next token are compared at every position of
the chains:

* `adapter`: the base model with the adapter beside it, in fp32. This is what the merge has to reproduce.
* `merged`: the adapter folded into the weights, in fp32.
* `cast`: the folded weights rounded to bf16, in memory.
* `saved`: the model that was read back from the files, in the data type of the files.

The acceptance rule has no number that depends on the model or on the size of the adapter:

1. Each adapted layer, given a random input, has to answer as before the fold, to 1 % of what its adapter adds
   (`check_layers`). A layer that was left out is wrong by 100 %, a wrong scale by its error. The test allows for
   rounding in fp32, 1e-5 of the layer's output: no bf16 file holds a change so small, its steps are 4e-3.
2. KL(adapter || merged) may be at most 1e-5 of KL(merged || cast). Both models compute in fp32, so only rounding may
   separate them, and the cast shows how much this model makes of rounding: a KL divergence goes with the square of
   the error, and bf16 rounds 65,536 times as coarsely as fp32, which makes 2e-10. Folding rounds a few times more
   often than a cast: toys with lora_B of a standard deviation from 1e-5 to 3 showed 3e-9 to 5e-7.
3. KL(adapter || saved) may be at most twice KL(merged || cast) when the files are bf16: the same rounding, so the two
   agree, and the factor covers their positions and rule 2. When the files are fp32, the limit is that of rule 2.
   Likewise the most probable token may differ at most at twice as many positions as the cast alone moves it, or at
   1 % of them, which near ties account for.

A fixed tolerance of logits cannot do this: bf16 has a spacing of 0.0625 at 8 and of 0.25 at 32.

The logits lie on disk between the models, so that memory holds those of one prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sifthinker.core.errors import UserError

LAYER = 0.01  # rule 1, share of what the adapter adds
LAYER_ROUNDING = 1e-5  # rule 1, share of the layer's output
FOLD = 1e-5  # rule 2, share of the cast's cost
FLOOR = 1e-9  # nats; below it a KL divergence of fp32 logits is noise
CAST = 2.0  # rule 3
TIES = 0.01  # rule 3, share of the positions
ROWS = 32  # positions that are compared at once, in float64


@dataclass(frozen=True)
class Prompt:
    """What a model is given, and how many of its last positions count: those that predict a token of the chain."""

    inputs: Any
    positions: int


@dataclass(frozen=True)
class Difference:
    """How far a model's next-token distributions are from those of another."""

    kl: float  # the largest of all positions, in nats
    moved: int  # positions whose most probable token differs
    positions: int

    @property
    def argmax_share(self) -> float:
        """The share of the positions whose most probable token is the same."""
        return 1 - self.moved / self.positions


class Answers:
    """The logits of several models on the same prompts, in a folder of their own."""

    def __init__(self, folder: Path, prompts: Sequence[Prompt]) -> None:
        """Keeps the logits of these prompts in `folder`."""
        self.folder, self.prompts = folder, prompts

    @torch.no_grad()
    def ask(self, name: str, model: Any) -> None:
        """Writes the model's logits, prompt by prompt."""
        for index, prompt in enumerate(self.prompts):
            output = model(**prompt.inputs.to(model.device), logits_to_keep=prompt.positions)
            save_file({"logits": output.logits[0].float().cpu().contiguous()}, self._file(name, index))

    def difference(self, left: str, right: str) -> Difference:
        """KL(left || right) and the moved positions, over all prompts."""
        found = [
            difference(self._read(left, index), self._read(right, index))
            for index in range(len(self.prompts))
        ]
        return Difference(
            max_or_nan([each.kl for each in found]),
            sum(each.moved for each in found),
            sum(each.positions for each in found),
        )

    def drop(self, name: str) -> None:
        """Removes a model's logits, which take gigabytes with a large vocabulary."""
        for index in range(len(self.prompts)):
            self._file(name, index).unlink()

    def _read(self, name: str, index: int) -> torch.Tensor:
        return load_file(self._file(name, index))["logits"]

    def _file(self, name: str, index: int) -> Path:
        return self.folder / f"{name}-{index}.safetensors"


def difference(left: torch.Tensor, right: torch.Tensor) -> Difference:
    """The difference of two models on one prompt, from their logits, (positions, vocabulary)."""
    largest = []
    for rows in range(0, len(left), ROWS):
        p = left[rows : rows + ROWS].double().log_softmax(-1)
        q = right[rows : rows + ROWS].double().log_softmax(-1)
        largest.append(float((p.exp() * (p - q)).sum(-1).max()))  # the maximum of torch keeps a NaN
    moved = int((left.argmax(-1) != right.argmax(-1)).sum())
    return Difference(max_or_nan(largest), moved, len(left))


def max_or_nan(values: Sequence[float]) -> float:
    """The largest value; NaN if one is NaN, which Python's `max` may lose."""
    return float(torch.tensor(values, dtype=torch.float64).max())


# --- rule 1 -----------------------------------------------------------------------------------------------------


def adapted_layers(model: Any) -> dict[str, Any]:
    """The layers of a PEFT model that the adapter acts on, by their names in the base model.

    Raises:
        UserError: one is not a linear layer, which is all that the merge is checked for, or shares its weights with
            the embedding, which the adapter does not act on.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = {n: m for n, m in model.get_base_model().named_modules() if isinstance(m, BaseTunerLayer)}
    embedding = getattr(model.get_base_model().get_input_embeddings(), "weight", None)
    for name, layer in layers.items():
        base = layer.get_base_layer()
        if not isinstance(base, torch.nn.Linear):
            raise UserError(
                f"the adapter acts on {name} ({type(base).__name__}); only adapters of linear layers can be merged: "
                "train one without it in target_modules"
            )
        if base.weight is embedding:
            raise UserError(
                f"the adapter acts on {name}, which shares its weights with the embedding, and a merge would change "
                "both; train one without it in target_modules"
            )
    return layers


@dataclass(frozen=True)
class Probe:
    """An adapted layer's answer to a random input."""

    given: torch.Tensor
    answer: torch.Tensor
    added: float  # norm of what the adapter adds to the answer


@torch.no_grad()
def probe_layers(model: Any) -> dict[str, Probe]:
    """A probe of each adapted layer of a PEFT model, before the fold."""
    generator, probes = torch.Generator().manual_seed(0), {}
    for name, layer in adapted_layers(model).items():
        weight = layer.get_base_layer().weight
        given = torch.randn(1, weight.shape[1], generator=generator).to(weight.device, weight.dtype)
        answer = layer(given)
        added = float((answer - layer.get_base_layer()(given)).norm())
        probes[name] = Probe(given, answer, added)
    return probes


@torch.no_grad()
def check_layers(merged: Any, probes: dict[str, Probe]) -> float:
    """Asks the merged layers again; returns the largest error, as a share of what the adapter adds.

    Raises:
        UserError: the answer of a layer differs by more than rule 1 allows.
    """
    worst = 0.0
    for name, probe in probes.items():
        error = float((merged.get_submodule(name)(probe.given) - probe.answer).norm())
        allowed = LAYER * probe.added + LAYER_ROUNDING * float(probe.answer.norm())
        if not error <= allowed:
            raise UserError(
                f"{name} does not hold its adapter: its answer to a random input differs by {error:.3g}, the adapter "
                f"adds {probe.added:.3g} and {allowed:.3g} is allowed. {ADVICE}"
            )
        worst = max(worst, error / probe.added if probe.added else 0.0)
    return worst


# --- rules 2 and 3 ----------------------------------------------------------------------------------------------

ADVICE = (
    "The merge is wrong, and no setting changes that: compare the installed peft and transformers with the "
    "constraints file, and the adapter with its base model"
)


def check_fold(fold: Difference, cast: Difference) -> None:
    """Rule 2: `fold` is adapter against merged, `cast` is merged against cast.

    Raises:
        UserError: the fold changed more than rounding in fp32 does.
    """
    if not fold.kl <= fold_limit(cast):
        raise UserError(
            f"the merged model does not answer as base and adapter do: in fp32 their largest KL divergence is "
            f"{fold.kl:.3g} nats, and {fold_limit(cast):.3g} is allowed. {ADVICE}"
        )


def check_saved(saved: Difference, cast: Difference, precision: str) -> None:
    """Rule 3: `saved` is adapter against saved.

    Raises:
        UserError: the files answer otherwise than a cast of the merged model accounts for.
    """
    limit = fold_limit(cast)
    moved = TIES * saved.positions
    if precision == "bf16":
        limit, moved = limit + CAST * cast.kl, moved + CAST * cast.moved
    if not (saved.kl <= limit and saved.moved <= max(moved, 1)):
        raise UserError(
            f"the saved model does not answer as base and adapter do: the largest KL divergence is {saved.kl:.3g} "
            f"nats, the most probable token differs at {saved.moved} of {saved.positions} positions; the cast to "
            f"{precision} accounts for {limit:.3g} nats and {max(moved, 1):.0f} positions. {ADVICE}"
        )


def fold_limit(cast: Difference) -> float:
    """The largest KL divergence that rounding in fp32 accounts for."""
    return FOLD * cast.kl + FLOOR
