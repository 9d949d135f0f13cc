"""The warm-up: LoRA on whole chains (paper, section 3.3 and implementation details), by TRL's SFTTrainer.

    python -m sifthinker.training.sft CONFIG.yaml

    model: <folder of the base model>
    dataset: [<SIF Parquet files>]
    work: <folder of checkpoints, and of progress.jsonl>
    out: <folder of the results: adapter/, history.jsonl, summary.json, rejects.parquet>
    settings: {model: <config.Model>, sft: <config.Sft>}

Departures from the release, and from TRL's defaults:

1. The whole data set is trained on; the release holds 10 % out (`held_out: 0.1` does so too, seeded).
2. A chain that does not fit `max_length` is an error or a reject; the release cuts it at 2,048 tokens, TRL cuts
   what its `max_length` says. Nothing is cut here: TRL gets none.
3. The loss is on the assistant's text and its end of turn. Prompt and chain are tokenised apart, as when the model
   writes the chain itself.
4. The vision tower and its projector stay frozen.
5. `target: answer` learns the bare answer to the plain question: the paper's VQA-SFT (Table 5).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from sifthinker.config import Model, Section, Sft
from sifthinker.core import prompts, tables
from sifthinker.core.records import Reject
from sifthinker.models import loading
from sifthinker.training import adapters, checkpoints, harness, json_files, progress, ranks, row_check, rows


class Settings(Section):
    """The sections that SFT reads."""

    model: Model
    sft: Sft


class SftRun(Section):
    """The configuration file of an SFT: what is trained on which rows, and where the result goes."""

    model: Path
    dataset: tuple[Path, ...]
    work: Path
    out: Path
    settings: Settings


def main(path: Path) -> None:
    """Trains the LoRA adapter of the warm-up stage."""
    train(harness.load(path, SftRun))


def train(task: SftRun) -> None:
    """Trains, or goes on training, and writes the results.

    Raises:
        UserError: see `ranks.check_world`, `checkpoints.check_identity`, `rows.open_parquet`; or a chain does not fit.
    """
    from trl import SFTConfig

    started = time.monotonic()
    settings = task.settings.sft
    ranks.check_world(settings)
    task.work.mkdir(parents=True, exist_ok=True)
    task.out.mkdir(parents=True, exist_ok=True)
    arguments = SFTConfig(
        **harness.arguments(settings, task.work),
        max_length=None,
        dataloader_num_workers=4 if torch.cuda.is_available() else 0,  # they decode and resize the pictures
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_ratio,  # below 1 it is a share of all steps
        eval_strategy="epoch" if settings.held_out else "no",
        per_device_eval_batch_size=settings.batch,
    )
    harness.start_deepspeed(settings)
    checkpoints.check_identity(task.work, task.settings)
    processor = loading.load_processor(task.model, task.settings.model.max_pixels)
    dataset, rejects = fitting(task, processor)
    trainer, held_out = build(task, arguments, processor, dataset)
    resumed = checkpoints.last_complete(task.work)
    ranks.barrier()
    harness.fit(trainer, resumed)
    adapters.save_adapter(trainer, task.out / "adapter")
    if ranks.rank() == 0:
        history = progress.write_history(trainer, task.out)
        tables.write(task.out / "rejects.parquet", tables.REJECTS, rejects)
        json_files.write_json(
            task.out / "summary.json",
            {
                "in": len(dataset) + len(rejects),
                "kept": len(dataset),
                "rejected": {"too-long": len(rejects)} if rejects else {},
                "notes": {**progress.notes(trainer, history, resumed, started), "held_out": held_out},
            },
        )


def build(task: SftRun, arguments: Any, processor: Any, dataset: Dataset) -> tuple[Any, int]:
    """The trainer, and how many rows are held out for its validation loss."""
    from trl import SFTTrainer

    settings, held_out = task.settings.sft, None
    if settings.held_out:
        parts = dataset.train_test_split(settings.held_out, seed=settings.seed)
        dataset, held_out = parts["train"], parts["test"]
    trainer = SFTTrainer(
        model=loading.load_policy(task.model, settings.precision),
        args=arguments,
        train_dataset=examples(dataset, task.settings.model.depth_input, settings.target),
        eval_dataset=examples(held_out, task.settings.model.depth_input, settings.target)
        if held_out
        else None,
        processing_class=processor,
        peft_config=adapters.lora(settings.lora),
        callbacks=[progress.Progress(task.work), checkpoints.Checkpoints()],
    )
    trainer.data_collator = row_check.NamedRows(trainer.data_collator)
    return trainer, len(held_out or ())


def fitting(task: SftRun, processor: Any) -> tuple[Dataset, list[Reject]]:
    """The rows whose prompt and chain fit `max_length`, and the rejects.

    Raises:
        UserError: one does not fit and `too_long` is "error", or none fits.
    """
    settings, depth_input = task.settings.sft, task.settings.model.depth_input
    target = settings.target  # the column of what is learnt
    columns = ["id", "question", target, "width", "height", *rows.image_columns(depth_input)]
    dataset = rows.open_parquet(task.dataset, columns, task.work)
    rejects: list[Reject] = []
    texts = dataset.select_columns(["id", "question", target, "width", "height"])
    for start in range(0, len(texts), 1000):
        batch = texts.select(range(start, min(start + 1000, len(texts)))).to_list()
        tokens = rows.count_tokens(processor, batch, depth_input, target)
        rejects += row_check.too_long(batch, tokens, settings, start)
    row_check.refuse(rejects, len(dataset), settings)
    left_out = {reject.row for reject in rejects}
    return dataset.select([index for index in range(len(dataset)) if index not in left_out]), rejects


def examples(dataset: Dataset, depth_input: bool, target: str) -> Dataset:
    """Rows as TRL's collator takes them: prompt, completion, images, sample_id; made when a batch is made."""

    def transform(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        made = []
        for values in zip(*batch.values(), strict=True):
            row = dict(zip(batch, values, strict=True))
            turn = prompts.policy_messages(row["question"], depth_input, chain=row[target])[1:]
            example = rows.conversation(row, depth_input, target == "chain")
            made.append({**example, "completion": turn, row_check.ID: row["id"]})
        return {name: [example[name] for example in made] for name in made[0]}

    return dataset.with_transform(transform)


if __name__ == "__main__":
    harness.main(main)
