"""What is checked before the ranks of a training are started, because it would end the training later.

Batch arithmetic, the longest sample, free memory, free disk space, and that the judge answers. Each check raises a
`UserError` that says what to change; together they take seconds, and a minute where the judge does not answer. The
training programs do not import this module, so its estimates are no part of what identifies their results.

memory.py has the estimate of a rank's memory.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sifthinker import llm
from sifthinker.config import Api, Config, Grpo, Model, Sft, Train
from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject
from sifthinker.llm import judge
from sifthinker.training import memory, outages, samplers
from sifthinker.training.memory import GB, Shape

logger = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds in which a judge that does not answer is asked again
CHECKPOINTS = 3  # two are kept while a third is written
BATCH = 1000  # rows read at once
SCENES = ("scenes", "scenes-counting")  # the sources of rendered scenes (`scenes.sources`)


def steps(settings: Train, rows: int) -> int:
    """Optimiser steps of a training on `rows` rows, as the trainers count them."""
    if isinstance(settings, Grpo) and rows < prompts(settings):
        return 0
    if settings.max_steps > 0:
        return settings.max_steps
    if isinstance(settings, Grpo):  # whole groups: the rest of an epoch is left out
        per_epoch = rows // prompts(settings) * settings.iterations
    else:
        held_out = math.ceil(rows * settings.held_out) if isinstance(settings, Sft) else 0
        batches = math.ceil((rows - held_out) / (settings.ranks * settings.batch))
        per_epoch = math.ceil(batches / settings.accumulation)
    return math.ceil(settings.epochs * per_epoch)


def prompts(settings: Grpo) -> int:
    """Different samples that an optimiser step of GRPO takes."""
    return settings.ranks * settings.batch * settings.accumulation // settings.generations


def too_few(config: Config) -> list[str]:
    """Why GRPO's subset can have no step, as far as the configuration says how many rows it has at most; else nothing.

    It is told with the plan: the subset is drawn after the annotation is paid, and GRPO begins after SFT.
    """
    settings = config.grpo
    most = {"publish.rl_samples": config.publish.rl_samples, "ingest.total": config.ingest.total}
    if config.publish.rows is not None:
        most["publish.rows"] = config.publish.rows
    if config.scenes and all(source.name in SCENES for source in config.sources):
        most["scenes.rows"] = config.scenes.rows
    field = min(most, key=most.__getitem__)
    wanted = prompts(settings)
    if config.publish.rl_file or most[field] >= wanted:
        return []
    return [
        f"{field}: {most[field]} samples are fewer than the {wanted} that one step takes (grpo.ranks {settings.ranks} x batch "
        f"{settings.batch} x accumulation {settings.accumulation} / generations {settings.generations}); raise {field} to "
        f"{wanted} or more, or lower grpo.batch or grpo.accumulation"
    ]


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
        resumes = any(work.glob("checkpoint-*"))  # its address, name and key were right before
        ask_judge(settings.judge, judge_base_url, settings.judge_patience if resumes else PATIENCE)
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


def ask_judge(api: Api, base_url: str | None, patience: float = PATIENCE) -> None:
    """One call, outside the ledger, with few retries. A judge that does not answer is asked again for a while.

    Args:
        api: its section.
        base_url: its endpoint, where the section does not name it.
        patience: seconds in which it is asked again.

    Raises:
        UserError: no reply, or none with a score.
    """
    began = time.monotonic()
    api = api.model_copy(update={"retries": min(api.retries, 2), "timeout": min(api.timeout, 60.0)})
    request = judge.request(
        "What color is the sky on a clear day?", "blue", "It is blue.", max_tokens=api.judge_tokens
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        llm.Client(api, Path(folder) / "calls.sqlite", base_url) as client,
    ):
        for pause in outages.pauses():
            [reply] = outages.ask_once(client, [request])
            away = isinstance(reply, llm.Failure) and reply.kind in (outages.AWAY, outages.HUNG)
            if not away or time.monotonic() - began + pause > patience:
                break
            logger.warning("grpo.judge: %s; asked again in %.0f s", reply, pause)
            time.sleep(pause)
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
        UserError: it does not fit the model's context, a text holds a special token of the model, or chains are longer than
            SFT takes. It is said here with the whole data set: a rehearsal has the longest sample alone.
    """
    from sifthinker.models import loading
    from sifthinker.training import row_check, rows

    processor = loading.load_processor(model, policy.max_pixels)
    target = settings.target if isinstance(settings, Sft) else None
    columns = ["id", "question", "width", "height", *([target] if target else [])]
    texts, reserved = ["question", *([target] if target else [])], row_check.reserved(processor)
    longest, which = 0, ""
    read, rejects = 0, list[Reject]()
    records = tables.read(dataset, columns)
    while batch := list(islice(records, BATCH)):
        row_check.check_texts(reserved, batch, texts)
        lengths = rows.count_tokens(processor, batch, policy.depth_input, target)
        if isinstance(settings, Sft):
            rejects += row_check.too_long(batch, lengths, settings, read)
            lengths = [tokens if tokens <= settings.max_length else 0 for tokens in lengths]
        read += len(batch)
        if max(lengths) > longest:
            longest = max(lengths)
            which = batch[lengths.index(longest)]["id"]
    if isinstance(settings, Sft):
        row_check.refuse(rejects, read, settings)
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

    A training that is resumed has written some of them already, and needs room for the rest.

    Raises:
        UserError: they do not fit beside what is there.
    """
    width = 2 if settings.precision == "bf16" else 4
    checkpoints = CHECKPOINTS * shape.adapted * settings.lora.r * (width + 12)
    if isinstance(settings, Grpo) and settings.evaluate_steps:  # each evaluation may be the best so far
        checkpoints += planned // settings.evaluate_steps * shape.adapted * settings.lora.r * width
    checkpoints = max(0, checkpoints - _written(work))
    copy = 0 if (work / "dataset").exists() else sum(path.stat().st_size for path in dataset)
    work.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(work).free
    if checkpoints + copy > free:
        raise UserError(
            f"{work}: {free / GB:.1f} GB are free; checkpoints take about {checkpoints / GB:.1f} GB and the copy of "
            f"the data set {copy / GB:.1f} GB, beside what is there; make room, or put `store` on another disk"
        )


def _written(work: Path) -> int:
    """The bytes of the checkpoints and of the best adapters that an earlier start has left."""
    size = 0
    for path in (path for pattern in ("checkpoint-*", "best") for path in work.glob(f"{pattern}/**/*")):
        with suppress(FileNotFoundError):  # the program of a killed run may still be there, and remove one
            size += path.stat().st_size
    return size
