"""Measures this machine for a forecast: layers of the policy's sizes, depth maps, the disk.

One layer and three layers of a decoder of these sizes are trained and decoded, with random weights and an adapter. The
difference is two layers' time; a whole model need not fit. On a processor one thread computes, as in a rank, and layers of
billions of weights see few tokens; without fast bf16 that still takes minutes. A picture's depth map is made where the depth model's weights are at hand.
"""

from __future__ import annotations

import io
import os
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from sifthinker.config import Config
from sifthinker.data import depth_estimation
from sifthinker.training.memory import Shape
from sifthinker.upkeep.forecast.calibration import Calibration, device
from sifthinker.upkeep.forecast.workload import HEIGHT, WIDTH

TOKENS = {"cuda": 2048, "cpu": 256}  # of the pass that is measured, at most
PROMPT = {"cuda": 64, "cpu": 8}  # tokens before those that are decoded
DECODED = {"cuda": 16, "cpu": 4}  # tokens
PRODUCTS = {
    "cuda": 1e15,
    "cpu": 1e10,
}  # of weights and tokens in the pass, at most: seconds without fast bf16
COLUMNS = 1000  # of the vocabulary
LAYERS = (1, 3)  # of the two decoders
REPEATS = 5
ENOUGH = 10.0  # seconds, after which nothing is repeated
DISK = 256_000_000  # bytes


def calibrate(config: Config, shape: Shape, depth_weights: Path | None) -> Calibration:
    """Measures this machine for a model of these sizes.

    Args:
        config: its precision, adapter and disk count.
        shape: of the policy.
        depth_weights: folder of the depth model; None: its pace is not measured.
    """
    precision = config.sft.precision
    where = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    sequences = config.grpo.batch * config.grpo.accumulation
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if where == "cpu" else threads)
    try:
        trained, decoded = zip(
            *(_layers(count, shape, config.sft.lora.r, dtype, where, sequences) for count in LAYERS),
            strict=True,
        )
        head = _head(shape.hidden, dtype, where)
    finally:
        torch.set_num_threads(threads)
    write, read = _disk(config.store)
    return Calibration(
        host=socket.gethostname(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        device=device(),
        precision=precision,
        hidden=shape.hidden,
        inner=shape.inner,
        cached=shape.cached,
        r=config.sft.lora.r,
        layer_token=_a_layer(trained) / _tokens(shape, where),
        head_token=head,
        decode_layer=_a_layer(decoded),
        sequences=sequences,
        depth_image=_depth(config, depth_weights),
        write=write,
        read=read,
        versions={"torch": torch.__version__, "transformers": transformers.__version__},
    )


def _a_layer(seconds: Sequence[float]) -> float:
    """Seconds of a layer, from those of the two decoders; noise must not make it nothing."""
    few, many = seconds
    return max((many - few) / (LAYERS[1] - LAYERS[0]), many / LAYERS[1] / 10)


def _tokens(shape: Shape, where: str) -> int:
    """How many tokens the measured pass has."""
    weights = LAYERS[1] * shape.hidden * (4 * shape.hidden + 3 * shape.inner)
    return int(min(TOKENS[where], max(8, PRODUCTS[where] / weights)))


def _layers(
    count: int, shape: Shape, r: int, dtype: torch.dtype, where: str, sequences: int
) -> tuple[float, float]:
    """Seconds of a training pass, and of one decoding step, of a decoder with so many layers."""
    from peft import LoraConfig, get_peft_model

    head = 128 if shape.hidden % 128 == 0 and shape.hidden > 128 else shape.hidden // 4
    heads = shape.hidden // head
    kept = max(1, shape.cached // 2 // head)
    with torch.device(where):
        model: Any = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=COLUMNS,
                hidden_size=shape.hidden,
                intermediate_size=shape.inner,
                num_hidden_layers=count,
                num_attention_heads=heads,
                num_key_value_heads=max(n for n in range(1, heads + 1) if n <= kept and heads % n == 0),
                max_position_embeddings=8192,
                eos_token_id=None,
            )
        ).to(dtype)
    model = get_peft_model(model, LoraConfig(r=r, target_modules="all-linear", task_type="CAUSAL_LM"))
    ids = torch.randint(COLUMNS, (1, _tokens(shape, where)), device=where)

    def train() -> None:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        model.zero_grad()

    prompt = ids[:, : PROMPT[where]].expand(sequences, -1)

    def decode(tokens: int) -> Callable[[], None]:
        def run() -> None:
            model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                do_sample=False,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                pad_token_id=0,
            )

        return run

    more = DECODED[where]
    step = (_seconds(decode(more + 1)) - _seconds(decode(1))) / more
    return _seconds(train), max(step, 1e-9)


def _head(hidden: int, dtype: torch.dtype, where: str) -> float:
    """Seconds of one product with the head, a token and thousand columns."""
    states = torch.randn(256, hidden, dtype=dtype, device=where)
    columns = torch.randn(hidden, 8 * COLUMNS, dtype=dtype, device=where)
    return _seconds(lambda: (states @ columns, None)[1]) / 256 / 8


def _depth(config: Config, weights: Path | None) -> float | None:
    """Seconds for a picture's depth map, loading left out."""
    if weights is None:
        return None
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    data = buffer.getvalue()

    def maps(count: int) -> float:
        began = time.perf_counter()
        pictures = ((f"{number:064}", data) for number in range(count))
        assert len(list(depth_estimation.estimate(pictures, weights, config.depth))) == count
        return time.perf_counter() - began

    few, many = config.depth.batch, 3 * config.depth.batch
    return max((maps(many) - maps(few)) / (many - few), 1e-6)


def _disk(store: Path) -> tuple[float, float]:
    """Bytes a second that are written to the store's disk, and read from it."""
    block = os.urandom(1 << 20)
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=store) as file:
        began = time.perf_counter()
        for _ in range(DISK >> 20):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = time.perf_counter() - began
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        began = time.perf_counter()
        while file.read(1 << 20):
            pass
        return DISK / written, DISK / (time.perf_counter() - began)


def _seconds(work: Callable[[], None]) -> float:
    """The shortest of some runs, after one that does not count."""
    found: list[float] = []
    began = time.perf_counter()
    while len(found) <= REPEATS and (len(found) < 2 or time.perf_counter() - began < ENOUGH):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return min(found[1:])
