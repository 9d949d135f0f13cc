"""What is checked before the ranks of a training are started, because it would end the training later.

Batch arithmetic, the longest sample, free memory, free disk space, and that the judge answers. Each check raises a
`UserError` that says what to change; together they take seconds. The training programs do not import this module, so
its estimates are no part of what identifies their results.

memory.py has the estimate of a rank's memory.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sifthinker import llm
from sifthinker.config import Api, Grpo, Model, Sft, Train
from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.llm import judge
from sifthinker.training import memory, samplers
from sifthinker.training.memory import GB, Shape

logger = logging.getLogger(__name__)

CHECKPOINTS = 3  # two are kept while a third is written
BATCH = 1000  # rows read at once


def steps(settings: Train, rows: int) -> int:
    """Optimiser steps of a training on `rows` rows, as the trainers count them."""
    if settings.max_steps > 0:
        return settings.max_steps
    if isinstance(settings, Grpo):  # whole groups: the rest of an epoch is left out
        prompts = settings.ranks * settings.batch * settings.accumulation // settings.generations
        per_epoch = rows // prompts * settings.iterations
    else:
        held_out = math.ceil(rows * settings.held_out) if isinstance(settings, Sft) else 0
        batches = math.ceil((rows - held_out) / (settings.ranks * settings.batch))
        per_epoch = math.ceil(batches / settings.accumulation)
    return math.ceil(settings.epochs * per_epoch)


def check(
    model: Path,
    dataset: Sequence[Path],
    work: Path,
    policy: Model,
    settings: Sft | Grpo,
    judge_base_url: str | None = None,
    held_out: Path | None = None,
) -> dict[str, Any]:
    """Everything; returns what was estimated.

    Args:
        model: the folder of the model that the training starts from.
        dataset: SIF Parquet files of what it trains on.
        work: its work folder.
        policy: the section of the model.
        settings: the section of the training.
        judge_base_url: the judge's endpoint, where its section does not name it.
        held_out: SIF Parquet of the rows that GRPO's policy is evaluated on.

    Raises:
        UserError: see the checks.
    """
    if isinstance(settings, Grpo):
        ask_judge(settings.judge, judge_base_url)
        samplers.of(settings).preflight(settings, len(memory.free_gpus()))
    rows = sum(pq.read_metadata(path).num_rows for path in dataset)
    planned = steps(settings, rows)
    if planned < 1:
        raise UserError(
            f"{rows} samples are fewer than one step takes (ranks {settings.ranks} x batch {settings.batch} x "
            f"accumulation {settings.accumulation}); lower batch or accumulation"
        )
    shape = memory.read_shape(model)
    longest, which = check_longest(model, dataset, policy, settings, shape)
    check_disk(work, dataset, settings, shape, planned)
    needed = memory.check(settings, shape, longest, policy)
    whole = sum(needed.values())
    logger.info("%d steps, longest sample %d tokens, about %.1f GB a rank", planned, longest, whole / GB)
    found = {
        "steps": planned,
        "longest_tokens": longest,
        "longest_id": which,
        "memory_bytes_a_rank": round(whole),
    }
    if isinstance(settings, Grpo):
        also, _ = check_longest(model, [held_out], policy, settings, shape) if held_out else (0, "")
        found["context"] = sampled(max(longest, also), shape, policy)
    return found


def sampled(longest: int, shape: Shape, policy: Model) -> int:
    """Tokens that a server which samples has to keep room for: the longest sample, and pictures of the whole budget.

    A server tries itself with the largest pictures when it starts, whatever the samples' own are. No picture has more
    tokens than patches.
    """
    return min(longest + memory.patches(shape, policy), shape.context)


def ask_judge(api: Api, base_url: str | None) -> None:
    """One call, outside the ledger, with few retries.

    Raises:
        UserError: no reply, or none with a score.
    """
    api = api.model_copy(update={"retries": min(api.retries, 2), "timeout": min(api.timeout, 60.0)})
    request = judge.request(
        "What color is the sky on a clear day?", "blue", "It is blue.", max_tokens=api.judge_tokens
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        llm.Client(api, Path(folder) / "calls.sqlite", base_url) as client,
    ):
        reply = client.ask(request)
    if isinstance(reply, llm.Failure):
        raise UserError(
            f"grpo.judge: {api.model} does not answer ({reply.kind}: {reply.detail}); check its address, name and key"
        )
    if judge.scored(reply) is None:
        raise UserError(
            f"grpo.judge: {api.model} answered without a score: {reply.text[:200]!r}; choose another model"
        )


# --- the longest sample ----------------------------------------------------------------------------------------


def check_longest(
    model: Path, dataset: Sequence[Path], policy: Model, settings: Sft | Grpo, shape: Shape
) -> tuple[int, str]:
    """Tokens of the longest sample, with its pictures and its target (GRPO: as long as one may get), and its id.

    Raises:
        UserError: it does not fit the model's context, or a text holds a special token of the model.
    """
    from sifthinker.models import loading
    from sifthinker.training import row_check, rows

    processor = loading.load_processor(model, policy.max_pixels)
    target = settings.target if isinstance(settings, Sft) else None
    columns = ["id", "question", "width", "height", *([target] if target else [])]
    texts, reserved = ["question", *([target] if target else [])], row_check.reserved(processor)
    longest, which = 0, ""
    records = tables.read(dataset, columns)
    while batch := list(islice(records, BATCH)):
        row_check.check_texts(reserved, batch, texts)
        lengths = rows.count_tokens(processor, batch, policy.depth_input, target)
        if isinstance(settings, Sft) and settings.too_long == "reject":  # the program leaves longer ones out
            lengths = [tokens if tokens <= settings.max_length else 0 for tokens in lengths]
        if max(lengths) > longest:
            longest = max(lengths)
            which = batch[lengths.index(longest)]["id"]
    if isinstance(settings, Sft):
        longest = min(longest, settings.max_length)  # what is longer is refused or rejected by the program
    else:
        longest += settings.max_completion
    if longest > shape.context:
        more = "" if isinstance(settings, Sft) else f" with grpo.max_completion = {settings.max_completion}"
        raise UserError(
            f"{which}: {longest} tokens{more}, and {model.name} takes {shape.context}; lower model.max_pixels"
            + ("" if isinstance(settings, Sft) else " or grpo.max_completion")
        )
    return longest, which


# --- disk ------------------------------------------------------------------------------------------------------


def check_disk(work: Path, dataset: Sequence[Path], settings: Sft | Grpo, shape: Shape, planned: int) -> None:
    """Refuses a disk without room for the checkpoints and the memory-mapped copy of the data set.

    Raises:
        UserError: they do not fit beside what is there.
    """
    width = 2 if settings.precision == "bf16" else 4
    checkpoints = CHECKPOINTS * shape.adapted * settings.lora.r * (width + 12)
    if isinstance(settings, Grpo) and settings.evaluate_steps:  # each evaluation may be the best so far
        checkpoints += planned // settings.evaluate_steps * shape.adapted * settings.lora.r * width
    copy = 0 if (work / "dataset").exists() else sum(path.stat().st_size for path in dataset)
    work.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(work).free
    if checkpoints + copy > free:
        raise UserError(
            f"{work}: {free / GB:.1f} GB are free; checkpoints take about {checkpoints / GB:.1f} GB and the copy of "
            f"the data set {copy / GB:.1f} GB; make room, or put `store` on another disk"
        )
