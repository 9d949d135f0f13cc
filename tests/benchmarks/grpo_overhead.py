"""What our rewards and callbacks add to a GRPO step of TRL's own trainer with a constant reward.

    python -m tests.benchmarks.grpo_overhead [--pairs N]

Two trainings of the tiny model live in one process, each in a thread of its own, and take their steps in turn, never at
the same time: ours, TRL's, TRL's, ours, and again. Both have the same weights, pictures and order of samples; both really
sample 8 completions of 64 tokens, no more and no fewer, and both then go on with the same canned chains, so that the
rewards have chains to score and the loss costs the same. What is left to differ is what is measured. A step is everything
from one step's begin to the next's: data, sampling, rewards, loss, logging; the first two of each do not count.

Seconds are the processor's, of the training's thread (one thread, no automatic garbage collection within a step), which
other programs on the machine disturb less than the clock's. What the judge's client takes is subtracted and shown apart.
The standard error is that of the mean of the pairs' differences.
"""

import argparse
import gc
import json
import logging
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from sifthinker.config import Grpo
from sifthinker.core import tables
from sifthinker.llm import standin
from sifthinker.models import loading
from sifthinker.training import adapters, checkpoints, gpu_check, grpo, harness, rows, samplers, scoring
from sifthinker.training.progress import Progress
from tests.training.canned_grpo import sample as canned

WARM = 2  # steps of each that do not count
TOKENS = 64


class Turns(TrainerCallback):
    """Lets a training begin a step when it is its turn, and notes the seconds of each step without those in `aside`."""

    taken = 0
    changed = threading.Condition()

    def __init__(self, name: str, order: Sequence[str], aside: list[float]) -> None:
        self.name, self.order, self.aside = name, order, aside
        self.seconds: list[float] = []
        self.began: float | None = None

    def on_step_begin(self, args, state, control, **kwargs):
        with self.changed:
            if self.began is not None:
                self.seconds.append(self._now() - self.began)
                Turns.taken += 1
                self.changed.notify_all()
            self.changed.wait_for(
                lambda: self.taken == len(self.order) or self.order[self.taken] == self.name
            )
        gc.collect()
        self.began = self._now()

    def _now(self) -> float:
        return time.thread_time() - sum(self.aside)


class Timed(scoring.Scorer):
    """Our rewards, with their own time and that of the judge noted."""

    aside: list[float]
    own: list[float]

    def ask(self, *args: Any) -> list[float | None]:
        started = time.thread_time()
        scores = super().ask(*args)
        self.aside.append(time.thread_time() - started)
        return scores

    def score(self, *args: Any) -> dict[str, list[float | None]]:
        started = time.thread_time()
        scores = super().score(*args)
        self.own.append(time.thread_time() - started - self.aside[-1])
        return scores


class TimedProgress(Progress):
    """Our callback, with its time noted."""

    own: list[float]

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        started = time.thread_time()
        super().on_log(*args, **kwargs)
        self.own.append(time.thread_time() - started)


def sampled(trainer: type[GRPOTrainer]) -> type[GRPOTrainer]:
    """The trainer, with its samples thrown away for canned ones, the same at each of its steps."""

    class Sampled(trainer):
        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            ids, _ = super()._generate_single_turn(*args, **kwargs)
            assert all(len(each) == TOKENS for each in ids)
            torch.manual_seed(self.state.global_step)
            return canned(self, *args, **kwargs)

    return Sampled


def build(ours: bool, folder: Path, steps: int, scorer: Timed, turns: Turns) -> GRPOTrainer:
    work = Path(tempfile.mkdtemp(dir=folder))
    settings = scorer.settings
    processor = loading.load_processor(folder / "base", 12_544)
    processor.tokenizer.padding_side = "left"
    given = grpo.grpo_arguments(settings)
    arguments = GRPOConfig(
        **{**harness.arguments(settings, work), "max_steps": steps},
        **(given if ours else {**given, "reward_weights": None}),
    )
    suppressed = samplers.of(settings).suppression(loading.picture_tokens(processor))
    arguments.generation_kwargs = {**suppressed, "min_new_tokens": TOKENS}
    progress = TimedProgress(work)
    progress.own = scorer.own
    return sampled(grpo.Trainer if ours else GRPOTrainer)(
        model=loading.load_policy(folder / "base", "fp32"),
        reward_funcs=scorer.functions if ours else (lambda completions, **_: [1.0] * len(completions)),
        args=arguments,
        train_dataset=grpo.examples(scorer.data, True),
        processing_class=processor,
        peft_config=adapters.lora(settings.lora),
        callbacks=[progress, checkpoints.Checkpoints(scorer.save), turns] if ours else [turns],
    )


def measure(folder: Path, pairs: int, judge: str) -> dict[str, Any]:
    """Seconds of the steps of both, pair by pair, and of what is ours within a step."""
    settings = Grpo(
        ranks=1,
        deepspeed="none",
        precision="fp32",
        generation="transformers",
        gradient_checkpointing=False,
        epochs=1000,
        save_steps=10_000,
        batch=8,
        accumulation=1,
        max_completion=TOKENS,
        learning_rate=1e-6,
        # TRL would sample with dropout, we do not: not the same work.
        lora={"r": 64, "alpha": 128, "dropout": 0.0},
        judge={"model": "standin"},
        trackers=[],
    )
    columns = ["id", "dataset", "question", "answer", "boxes", "image", "depth_image", "depth_map"]
    dataset = rows.open_parquet((folder / "rows.parquet",), columns, folder)
    order = ["ours", "trl"] * WARM
    for pair in range(pairs):
        order += ["trl", "ours"] if pair % 2 else ["ours", "trl"]
    with Timed(dataset, settings, folder, folder / "calls.sqlite", judge) as scorer:
        scorer.aside, scorer.own = [], []
        turns = {name: Turns(name, order, scorer.aside if name == "ours" else []) for name in ("ours", "trl")}
        threads = []
        for name, each in turns.items():
            trainer = build(name == "ours", folder, WARM + pairs + 1, scorer, each)
            threads.append(threading.Thread(target=harness.fit, args=(trainer, None)))
        gc.disable()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gc.enable()
    counted = {name: each.seconds[WARM : WARM + pairs] for name, each in turns.items()}
    # A step has one of each: a reading of the rewards and one of the log.
    own = sum(scorer.own) / len(scorer.aside)
    return {**counted, "own": own, "judge": statistics.fmean(scorer.aside[WARM:])}


def summarise(found: dict[str, Any]) -> dict[str, float]:
    """The relative overhead with its standard error, both in shares of TRL's mean step."""
    step = statistics.fmean(found["trl"])
    differences = [ours - trl for ours, trl in zip(found["ours"], found["trl"], strict=True)]
    return {
        "step_seconds": step,
        "overhead": statistics.fmean(differences) / step,
        "standard_error": statistics.stdev(differences) / len(differences) ** 0.5 / step,
        "directly": found["own"] / step,
        "judge_seconds": found["judge"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument(
        "--json", type=Path, help="also write the result, and the seconds of every step, here"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name, standin.running(Path(name) / "standin.log") as judge:
        folder = Path(name)
        loading.build_tiny("qwen2_5_vl", 0, folder / "base")
        tables.write(folder / "rows.parquet", tables.SIF, gpu_check.made_up((112, 84)))
        found = measure(folder, options.pairs, judge)
    result = summarise(found)
    if options.json:
        options.json.write_text(json.dumps({**result, **found}, indent=2))
    sys.stdout.write(
        f"step of TRL's trainer {result['step_seconds']:.3f} s; with our rewards and callbacks "
        f"{result['overhead']:+.2%} (standard error {result['standard_error']:.2%}, {options.pairs} pairs of steps)\n"
        f"our code by itself {result['directly']:.2%} of a step; the judge's client besides: "
        f"{result['judge_seconds'] * 1e3:.1f} ms a step of 8 completions\n"
    )


if __name__ == "__main__":
    main()
