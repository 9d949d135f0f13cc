"""What our rewards and callbacks add to a GRPO step of TRL's own trainer with a constant reward.

    python -m tests.benchmarks.grpo_overhead [--pairs N] [--steps N]

Both train the tiny model (fp32, CPU, one thread, 2 groups of 8) on the same pictures; both really sample, and both
then go on with the same canned chains, so that the rewards have chains to score and the loss costs the same. Trainings
alternate in pairs in one process. A step is everything from one step's begin to the next's: data, sampling, rewards,
loss, logging; the first one does not count. The time in which the judge is asked is taken out and shown apart.

Seconds are of the process's CPU (also those of the judge's client in its thread), which other programs on the machine
disturb less than the clock's.
"""

import argparse
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from sifthinker import models, sample, standin
from sifthinker.config import Grpo
from sifthinker.training import check, grpo, rows, run, scoring
from tests.training.canned_grpo import sample as canned


class Steps(TrainerCallback):
    """Seconds of each step, without those in `aside`."""

    def __init__(self, aside: list[float]) -> None:
        self.marks: list[float] = []
        self.aside = aside

    def on_step_begin(self, args, state, control, **kwargs):
        self.marks.append(time.process_time() - sum(self.aside))

    def seconds(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.marks[1:], self.marks[2:], strict=False)]


class Timed(scoring.Scorer):
    """Our rewards, with their own time and that of the judge noted."""

    aside: list[float]
    own: list[float]

    def ask(self, *args: Any) -> list[float | None]:
        started = time.process_time()
        scores = super().ask(*args)
        self.aside.append(time.process_time() - started)
        return scores

    def score(self, *args: Any) -> dict[str, list[float | None]]:
        started = time.process_time()
        scores = super().score(*args)
        self.own.append(time.process_time() - started - self.aside[-1])
        return scores


class TimedProgress(run.Progress):
    """Our callback, with its time noted."""

    own: list[float]

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        started = time.process_time()
        super().on_log(*args, **kwargs)
        self.own.append(time.process_time() - started)


def sampled(trainer: type[GRPOTrainer]) -> type[GRPOTrainer]:
    """The trainer, with its samples thrown away for canned ones."""

    class Sampled(trainer):
        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            super()._generate_single_turn(*args, **kwargs)
            torch.manual_seed(0)
            return canned(self, *args, **kwargs)

    return Sampled


def train(ours: bool, folder: Path, steps: int, judge: str) -> tuple[list[float], list[float], float]:
    """Of one training: seconds of its steps, of the judge in each, and of our own code in a step."""
    work = Path(tempfile.mkdtemp(dir=folder))
    settings = Grpo(
        ranks=1,
        deepspeed="none",
        precision="fp32",
        gradient_checkpointing=False,
        epochs=1000,
        max_steps=steps + 2,
        save_steps=1000,
        batch=16,
        accumulation=1,
        max_completion=128,
        learning_rate=1e-6,
        lora={
            "r": 64,
            "alpha": 128,
            "dropout": 0.0,
        },  # TRL would sample with dropout, we do not: not the same work
        judge={"model": "standin"},
        trackers=[],
    )
    processor = models.load_processor(folder / "base", 12_544)
    processor.tokenizer.padding_side = "left"
    columns = ["id", "dataset", "question", "answer", "boxes", "image", "depth_image", "depth_map"]
    dataset = rows.open_parquet((folder / "rows.parquet",), columns, work)
    given = grpo.grpo_arguments(settings)
    arguments = GRPOConfig(
        **run.arguments(settings, work), **(given if ours else {**given, "reward_weights": None})
    )
    arguments.generation_kwargs = grpo.suppression(settings, models.picture_tokens(processor))
    aside: list[float] = []
    clock = Steps(aside)
    with Timed(dataset, settings, work, work / "calls.sqlite", judge) as scorer:
        scorer.aside, scorer.own = aside, []
        progress = TimedProgress(work)
        progress.own = []
        trainer = sampled(grpo.Trainer if ours else GRPOTrainer)(
            model=models.load_policy(folder / "base", "fp32"),
            reward_funcs=scorer.functions if ours else (lambda completions, **_: [1.0] * len(completions)),
            args=arguments,
            train_dataset=grpo.examples(dataset, True),
            processing_class=processor,
            peft_config=run.lora(settings.lora),
            callbacks=[progress, run.Checkpoints(scorer.save), clock] if ours else [clock],
        )
        run.fit(trainer, None)
    own = statistics.median(scorer.own) + statistics.median(progress.own) if ours else 0.0
    return clock.seconds(), aside, own


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    differences, plain, judged, own = [], [], [], []
    with tempfile.TemporaryDirectory() as name, standin.running(Path(name) / "standin.log") as judge:
        folder = Path(name)
        models.build_tiny("qwen2_5_vl", 0, folder / "base")
        sample.write(folder / "rows.parquet", sample.SIF, check.made_up((112, 84)))
        for pair in range(options.pairs):
            found = {}
            for ours in (True, False) if pair % 2 else (False, True):
                seconds, aside, ran = train(ours, folder, options.steps, judge)
                found[ours] = statistics.median(seconds)
                own += [ran] if ours else []
                judged += aside[1:]
            differences.append(found[True] / found[False] - 1)
            plain.append(found[False])
            sys.stdout.write(f"pair {pair + 1}: TRL {found[False]:.3f} s, ours {found[True]:.3f} s\n")
    spread = statistics.stdev(differences) / len(differences) ** 0.5 if len(differences) > 1 else float("nan")
    sys.stdout.write(
        f"step of TRL's trainer {statistics.median(plain):.3f} s; ours {statistics.mean(differences):+.1%} "
        f"(standard error {spread:.1%}, {options.pairs} pairs of {options.steps} steps)\nrewards and callbacks by "
        f"themselves: {statistics.median(own):.4f} s a step = {statistics.median(own) / statistics.median(plain):.2%}; "
        f"the judge's client besides: {statistics.mean(judged):.3f} s a step of 16 completions\n"
    )


if __name__ == "__main__":
    main()
