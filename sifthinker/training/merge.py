"""Folds a LoRA adapter into its base model, and proves that it did.

    python -m sifthinker.training.merge CONFIG.yaml

    model: <folder of the base model>
    adapter: <folder of the adapter>
    out: <folder of the merged model; summary.json lies with it>
    work: <not used; every program is given one>
    dataset: [<SIF Parquet files>]   # optional: the prompts that both are compared on; else a made-up picture
    settings: {model: <config.Model>, merge: <config.Merge>}

The logits of base + adapter and of the merged model are compared on the same prompts. A merge that changes nothing
is an error (unless `merge.unchanged: note`), and so is one whose logits differ by more than `merge.tolerance` from
the adapter's.

1. The adapter is folded in with PEFT's safe merge, in `merge.precision`, which is also what the files hold.
2. The processor goes along with the pixel budget in it, so that the merged model is served as it was trained.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sifthinker import models, prompts, sample
from sifthinker.config import Merge, Model, Section, UserError
from sifthinker.training import rows, run

logger = logging.getLogger(__name__)
PROMPTS = 4


class Settings(Section):
    model: Model
    merge: Merge


class MergeRun(Section):
    model: Path
    adapter: Path
    out: Path
    work: Path | None = None
    dataset: tuple[Path, ...] = ()
    settings: Settings


def main(path: Path) -> None:
    """Folds an adapter into its base model."""
    merge(run.load(path, MergeRun))


def merge(task: MergeRun) -> None:
    """Writes the merged model.

    Raises:
        UserError: the adapter cannot be read or does not fit the model; the merge changes nothing, or too much.
    """
    from peft import PeftModel

    started = time.monotonic()
    settings = task.settings.merge
    trained = is_trained(task.adapter)
    if not trained:
        _unchanged(settings, f"{task.adapter}: every lora_B is zero: the adapter is untrained")
    task.out.mkdir(parents=True, exist_ok=True)
    processor = models.load_processor(task.model, task.settings.model.max_pixels)
    inputs = [
        models.encode(processor, *conversation)
        for conversation in conversations(task.dataset, task.settings.model.depth_input)
    ]
    model = models.load_policy(task.model, settings.precision).to(
        "cuda" if torch.cuda.is_available() else "cpu"
    )
    before = logits(model, inputs)
    try:
        adapted = PeftModel.from_pretrained(model, task.adapter).eval()
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{task.adapter}: does not fit the model {task.model}: {error}") from error
    wanted = logits(adapted, inputs)
    merged = adapted.merge_and_unload(safe_merge=True)
    got = logits(merged, inputs)
    difference, change = largest(wanted, got), largest(before, got)
    logger.info(
        "largest difference of logits: %.3g to the adapter, %.3g to the base model", difference, change
    )
    if change == 0 and trained:
        _unchanged(
            settings,
            f"{task.adapter}: the merged model answers exactly like the base model: in {settings.precision} the "
            "adapter is lost by rounding; train longer or set merge.precision: fp32",
        )
    if not difference <= settings.tolerance:
        raise UserError(
            f"{task.adapter}: merged and adapter logits differ by {difference:.4g}, more than merge.tolerance = "
            f"{settings.tolerance}; set merge.precision: fp32, or the tolerance to what you accept"
        )
    merged.save_pretrained(task.out)
    processor.save_pretrained(task.out)
    notes = {
        "largest_difference": difference,  # adapter against merged, on the prompts
        "largest_change": change,  # base against merged
        "prompts": len(inputs),
        "prompts_from": "data set" if task.dataset else "made-up picture",
        "precision": settings.precision,
        "seconds": round(time.monotonic() - started, 3),
    }
    run.write_json(task.out / "summary.json", {"in": 1, "kept": 1, "rejected": {}, "notes": notes})


def _unchanged(settings: Merge, what: str) -> None:
    if settings.unchanged == "error":
        raise UserError(f"{what}; the merge would change nothing. merge.unchanged: note lets it pass")
    logger.warning("%s; the merge changes nothing", what)


def is_trained(folder: Path) -> bool:
    """Whether an adapter changes anything: some lora_B is not zero.

    Raises:
        UserError: no adapter in safetensors there.
    """
    from safetensors import SafetensorError, safe_open

    file = folder / "adapter_model.safetensors"
    try:
        with safe_open(file, "pt") as tensors:
            return any(tensors.get_tensor(k).any() for k in tensors.keys() if "lora_B" in k)  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: cannot read the adapter: {error}") from error


def conversations(
    dataset: tuple[Path, ...], depth_input: bool
) -> list[tuple[list[dict[str, Any]], list[Image.Image]]]:
    """The prompts to compare on: the first rows of the data set, question and chain."""
    if not dataset:
        ramp = np.add.outer(np.arange(84), np.arange(112)).astype(np.uint8)
        pictures = [Image.fromarray(ramp).convert("RGB")] * (2 if depth_input else 1)
        return [(prompts.policy_messages("What is nearest?", depth_input), pictures)]
    columns = ["id", "question", "chain", *rows.image_columns(depth_input)]
    found = []
    for row, _ in zip(sample.read(dataset, columns), range(PROMPTS), strict=False):
        messages = prompts.policy_messages(row["question"], depth_input, chain=row["chain"])
        found.append((messages, rows.conversation(row, depth_input)["images"]))
    return found


@torch.no_grad()
def logits(model: Any, inputs: list[Any]) -> list[torch.Tensor]:
    """(tokens, vocabulary) fp32 of each prompt."""
    return [model(**each.to(model.device)).logits[0].float().cpu() for each in inputs]


def largest(left: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    """The largest absolute difference."""
    return max(float((a - b).abs().max()) for a, b in zip(left, right, strict=True))


if __name__ == "__main__":
    run.main(main)
