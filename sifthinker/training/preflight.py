"""What is checked before the ranks of a training are started, because it would end the training later.

Batch arithmetic, the longest sample, free memory, free disk space, and that the judge answers. Each check raises a
`UserError` that says what to change; together they take seconds. The training programs do not import this module, so
its estimates are no part of what identifies their results.

The estimate of memory adds up, for each rank: weights (cut up by ZeRO-3), the adapter with its gradient and AdamW's
two moments in fp32 (cut up by ZeRO), activations of the longest sample times the batch (one hidden state a layer with
gradient checkpointing), logits of the tokens that carry loss, and what a process takes anyhow. It is meant to tell
"far too much" from "fits", not to the gigabyte.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow.parquet as pq

from sifthinker import llm
from sifthinker.config import Api, Grpo, Model, Sft, Train
from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.llm import judge

logger = logging.getLogger(__name__)

GB = 1e9
PROCESS = {"cpu": 0.7 * GB, "gpu": 2.5 * GB}  # interpreter and libraries; CUDA context and work space
CHECKPOINTS = 3  # two are kept while a third is written
VLLM_SHARE = 0.3  # of a GPU's memory that TRL gives to vLLM in colocate mode
BATCH = 1000  # rows read at once


def steps(settings: Train, rows: int) -> int:
    """Optimiser steps of a training on `rows` rows, as the trainers count them."""
    if settings.max_steps > 0:
        return settings.max_steps
    if isinstance(settings, Grpo):  # whole groups: the rest of an epoch is left out
        per_epoch = rows // (settings.ranks * settings.batch * settings.accumulation // settings.generations)
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
) -> dict[str, Any]:
    """Everything; returns what was estimated.

    Raises:
        UserError: see the checks.
    """
    if isinstance(settings, Grpo):
        ask_judge(settings.judge, judge_base_url)
        if settings.generation == "vllm_server":
            ask_generation_server(settings.vllm_server)
    rows = sum(pq.read_metadata(path).num_rows for path in dataset)
    planned = steps(settings, rows)
    if planned < 1:
        raise UserError(
            f"{rows} samples are fewer than one step takes (ranks {settings.ranks} x batch {settings.batch} x "
            f"accumulation {settings.accumulation}); lower batch or accumulation"
        )
    shape = read_shape(model)
    longest = check_longest(model, dataset, policy, settings, shape)
    check_disk(work, dataset, settings, shape)
    needed = check_memory(settings, shape, longest)
    found = {"steps": planned, "longest_tokens": longest, "memory_bytes_a_rank": round(sum(needed.values()))}
    logger.info("%d steps, longest sample %d tokens, about %.1f GB a rank", *found.values())
    return found


def ask_judge(api: Api, base_url: str | None) -> None:
    """One call, outside the ledger, with few retries.

    Raises:
        UserError: no reply, or none with a score.
    """
    api = api.model_copy(update={"retries": min(api.retries, 2), "timeout": min(api.timeout, 60.0)})
    request = judge.request("What color is the sky on a clear day?", "blue", "It is blue.")
    with (
        tempfile.TemporaryDirectory() as folder,
        llm.Client(api, Path(folder) / "calls.sqlite", base_url) as client,
    ):
        reply = client.ask(request)
    if isinstance(reply, llm.Failure):
        raise UserError(
            f"grpo.judge: {api.model} does not answer ({reply.kind}: {reply.detail}); check its address, name and key"
        )
    if judge.score(reply.text) is None:
        raise UserError(
            f"grpo.judge: {api.model} answered without a score: {reply.text[:200]!r}; choose another model"
        )


def ask_generation_server(url: str) -> None:
    """Whether a vLLM server can sample for a training: TRL itself would find out on the ranks.

    Raises:
        UserError: it does not answer, or was started without what a training needs of it.
    """
    start = f"grpo.vllm_server: {url}"
    how = "start it as the head of sifthinker/training/grpo.py says"
    try:
        reply = httpx.get(f"{url}/server_info", params={"config_format": "json"}, timeout=10.0)
    except httpx.HTTPError as error:
        raise UserError(f"{start} does not answer ({error}); {how}") from error
    if reply.status_code == httpx.codes.NOT_FOUND:
        raise UserError(f"{start} has no development endpoints (VLLM_SERVER_DEV_MODE=1); {how}")
    if reply.is_error:
        raise UserError(f"{start} answers /server_info with status {reply.status_code}; {how}")
    found = reply.json()["vllm_config"]
    if found["weight_transfer_config"] is None:
        raise UserError(f"{start} takes no weights (--weight-transfer-config); {how}")
    if (mode := found["model_config"]["logprobs_mode"]) != "processed_logprobs":
        raise UserError(f"{start} gives {mode} instead of processed_logprobs (--logprobs-mode); {how}")


# --- the model and its longest sample ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """Sizes of a model that memory depends on."""

    parameters: int
    adapted: int  # sum of the inputs and outputs of the layers that LoRA goes to: times r, its parameters
    layers: int
    hidden: int
    inner: int  # of the feed-forward layers
    vocabulary: int
    cached: int  # numbers a token and layer that generation keeps: keys and values
    context: int  # tokens


def read_shape(model: Path) -> Shape:
    """Sizes of the model in a folder, from its config and the headers of its weights.

    Raises:
        UserError: they cannot be read.
    """
    from transformers import AutoConfig

    from sifthinker.models.families import frozen_modules

    try:
        text = AutoConfig.from_pretrained(
            model, trust_remote_code=False, local_files_only=True
        ).get_text_config()
        shapes = dict(_headers(model))
        frozen = frozen_modules()
    except (OSError, ValueError) as error:
        raise UserError(f"{model}: not a readable model: {error}") from error
    linear = [
        sum(size)
        for name, size in shapes.items()
        if len(size) == 2 and name.endswith("proj.weight") and not re.fullmatch(frozen, name)
    ]
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Shape(
        parameters=sum(math.prod(size) for size in shapes.values()),
        adapted=sum(linear),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        inner=text.intermediate_size,
        vocabulary=text.vocab_size,
        cached=2 * head * (getattr(text, "num_key_value_heads", None) or text.num_attention_heads),
        context=text.max_position_embeddings,
    )


def _headers(model: Path) -> Iterator[tuple[str, list[int]]]:
    """Name and shape of each tensor of the safetensors files, whose weights are not read."""
    for path in sorted(model.glob("*.safetensors")):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        yield from ((name, entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def check_longest(
    model: Path, dataset: Sequence[Path], policy: Model, settings: Sft | Grpo, shape: Shape
) -> int:
    """Tokens of the longest sample, with its pictures and its target (GRPO: as long as one may get).

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
    return longest


# --- memory and disk --------------------------------------------------------------------------------------------


def estimate(settings: Sft | Grpo, shape: Shape, longest: int) -> dict[str, float]:
    """Bytes that a rank needs on its device (on the CPU: in its process), by purpose."""
    width = 2 if settings.precision == "bf16" else 4
    parted = settings.ranks if settings.deepspeed != "none" else 1
    whole = "zero3" not in settings.deepspeed
    tokens = settings.batch * longest
    layer = tokens * (8 * shape.hidden + 3 * shape.inner) * width
    scored = settings.batch * (settings.max_completion if isinstance(settings, Grpo) else longest)
    needed = {
        "weights": shape.parameters * width / (1 if whole else settings.ranks),
        "adapter and optimiser": shape.adapted * settings.lora.r * (width + 12 / parted),
        "activations": shape.layers * tokens * shape.hidden * width + 2 * layer
        if settings.gradient_checkpointing
        else shape.layers * layer,
        "logits": 2 * 4 * scored * shape.vocabulary,
    }
    if not whole:
        needed["gathered layers"] = 2 * shape.vocabulary * shape.hidden * width
        if settings.deepspeed == "zero3_offload":
            needed["weights"] = 0.0
    if isinstance(settings, Grpo) and settings.generation == "transformers":
        needed["generation"] = tokens * shape.layers * shape.cached * width
    return needed


def check_memory(settings: Sft | Grpo, shape: Shape, longest: int) -> dict[str, float]:
    """The estimate of a rank's memory.

    Raises:
        UserError: there are too few GPUs, or less memory is free.
    """
    needed = estimate(settings, shape, longest)
    gpus = free_gpus()
    if gpus:
        if len(gpus) < settings.ranks:
            raise UserError(f"ranks: {settings.ranks} are configured and there are {len(gpus)} GPUs")
        needed["process"] = PROCESS["gpu"]
        if isinstance(settings, Grpo) and settings.generation == "vllm_colocate":
            needed["vLLM"] = VLLM_SHARE * min(total for _, total in gpus[: settings.ranks])
        place, free, wanted = (
            "each GPU",
            min(free for free, _ in gpus[: settings.ranks]),
            sum(needed.values()),
        )
    else:
        needed["process"] = PROCESS["cpu"]
        place, free = f"{settings.ranks} processes", float(psutil.virtual_memory().available)
        wanted = settings.ranks * sum(needed.values())
    if wanted > free:
        parts = ", ".join(f"{name} {size / GB:.1f}" for name, size in needed.items())
        raise UserError(
            f"memory: about {wanted / GB:.1f} GB are needed on {place} and {free / GB:.1f} GB are free (a rank: "
            f"{parts}). End what else runs there, or lower batch, model.max_pixels or the length limit, or set "
            "gradient_checkpointing: true, deepspeed: zero3 or zero3_offload"
        )
    return needed


def free_gpus() -> list[tuple[float, float]]:
    """(free, total) bytes of each GPU that the ranks will see; empty without one.

    Asks nvidia-smi, because a CUDA context of ours would stay on the first GPU for as long as we run.
    """
    command = ["nvidia-smi", "--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits"]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        command.append(f"--id={visible}")
    try:
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return []
    pairs = [line.split(",") for line in listed.splitlines()]
    return [(float(free) * 2**20, float(total) * 2**20) for free, total in pairs]


def check_disk(work: Path, dataset: Sequence[Path], settings: Sft | Grpo, shape: Shape) -> None:
    """Refuses a disk without room for the checkpoints and the memory-mapped copy of the data set.

    Raises:
        UserError: they do not fit beside what is there.
    """
    width = 2 if settings.precision == "bf16" else 4
    checkpoints = CHECKPOINTS * shape.adapted * settings.lora.r * (width + 12)
    copy = 0 if (work / "dataset").exists() else sum(path.stat().st_size for path in dataset)
    work.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(work).free
    if checkpoints + copy > free:
        raise UserError(
            f"{work}: {free / GB:.1f} GB are free; checkpoints take about {checkpoints / GB:.1f} GB and the copy of "
            f"the data set {copy / GB:.1f} GB; make room, or put `store` on another disk"
        )
