"""One step of a training with its longest sample, before the training: what does not fit ends here, and not in hours.

    python -m sifthinker.training.rehearsal CONFIG.yaml

The file is that of the training, with `rehearses: sft` or `grpo`, and a data set of one row, repeated. The very program of the
training runs, on as many ranks, with the same model, DeepSpeed and sampler. Its results are thrown away. What differs: one step,
no judge, and every completion as long as `grpo.max_completion` lets it get.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from transformers import GenerationConfig

from sifthinker.config import Section
from sifthinker.core.errors import UserError
from sifthinker.rewards import REWARDS
from sifthinker.training import grpo, harness, sft
from sifthinker.training.json_files import write_json
from sifthinker.training.scoring import BOOK

ONE_STEP = {"max_steps": 1, "trackers": [], "rehearse": "never"}
ADVICE = "lower batch, model.max_pixels or the length limit, or set gradient_checkpointing: true, deepspeed: zero3 or zero3_offload"


class RehearsalRun(Section):
    """What the program is told: which training, and that one's own fields."""

    rehearses: Literal["sft", "grpo"]
    sample: str  # id of the longest sample, for messages
    work: Path
    out: Path
    settings: dict[str, Any]
    fields: dict[str, Any]  # model, dataset, ledger, servers


def main(path: Path) -> None:
    """Rehearses a training."""
    rehearse(harness.load(path, RehearsalRun))


def rehearse(task: RehearsalRun) -> None:
    """Runs one step.

    Raises:
        UserError: it does not fit into memory; or see the trainings.
    """
    places = {**task.fields, "work": task.work, "out": task.out}
    try:
        if task.rehearses == "sft":
            changes = {**ONE_STEP, "accumulation": 1, "held_out": 0.0}
            sft.train(sft.SftRun(**places, settings=_changed(task.settings, "sft", changes)))
        else:
            # Completions that are drawn out are not those that a server sampled, and differ from the trainer's.
            changes = {**ONE_STEP, "evaluate_steps": 0, "max_logprob_gap": 1e9}
            run = grpo.GrpoRun(**places, settings=_changed(task.settings, "grpo", changes))
            grpo.train(run, Unscored, LongestTrainer)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(
            f"{task.rehearses}: one step with the longest sample ({task.sample}) does not fit into memory: {error}. "
            f"Nothing was trained yet; {ADVICE}"
        ) from error


def _changed(settings: dict[str, Any], stage: str, changes: dict[str, Any]) -> Any:
    return {**settings, stage: {**settings[stage], **changes}}


class Unscored:
    """In the place of the training's `Scorer`: every second completion earns something, and nobody is asked."""

    def __init__(self, *_: Any) -> None:
        """Takes what a `Scorer` takes."""

    def __enter__(self) -> Self:
        """Starts nothing."""
        return self

    def __exit__(self, *error: Any) -> None:
        """Ends nothing."""

    @property
    def functions(self) -> list[Callable[..., list[float | None]]]:
        """TRL's reward functions, by the names of `REWARDS`."""

        def named(name: str) -> Callable[..., list[float | None]]:
            def function(completions: Sequence[Any], **_: Any) -> list[float | None]:
                return [float(place % 2) for place in range(len(completions))]

            function.__name__ = name
            return function

        return [named(name) for name in REWARDS]

    def save(self, folder: Path) -> None:
        """A checkpoint without a book."""
        write_json(folder / BOOK, {})

    def restore(self, checkpoint: Path | None) -> None:
        """There is nothing to go back to."""

    def write_results(self, out: Path) -> int:
        """There are none."""
        return 0


class LongestTrainer(grpo.Trainer):
    """Samples completions that are as long as they may get."""

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        most = self.max_completion_length
        trainer: Any = self
        if not trainer.use_vllm:  # or keys and values would not grow to their most
            trainer.generation_kwargs = {**trainer.generation_kwargs, "min_new_tokens": most}
            trainer.generation_config = GenerationConfig(**trainer.generation_kwargs, disable_compile=True)
        ids, scores = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        # A server was not told: its completions are drawn out, for the loss.
        longest = [[*one, *[one[-1]] * (most - len(one))] for one in ids]
        if scores is not None:
            scores = [[*one, *[one[-1]] * (most - len(one))] for one in scores]
        return longest, scores


if __name__ == "__main__":
    harness.main(main)
