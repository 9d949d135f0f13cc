"""Measures this machine for a forecast: layers of the policy's sizes, depth maps, the disk.

One layer and three layers of a decoder of these sizes are trained and decoded, with random weights and an adapter. The
difference is two layers' time; a whole model need not fit. On a processor one thread computes, as in a rank, and layers of
billions of weights see few tokens. A picture's depth map is made where the depth model's weights are at hand.

Layers of a 7B model in bf16 take minutes on a processor without fast bf16. So products of a layer's sizes are timed first,
of few columns and then of more. From these it is known what a layer will take. What would pass `LIMIT` seconds is not
measured: the rates then come from one layer, or from the products alone, and the calibration says so.
"""

from __future__ import annotations

import io
import os
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
LIMIT = 60.0  # seconds for the layers, and as many for the depth maps
PROBE = 3.0  # seconds of one product, at most
PASSES = 2  # products of a layer in a training step: forward, and backward to its input
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
        rates = _rates(shape, config.sft.lora.r, dtype, where, sequences)
        head = _head(shape.hidden, dtype, where)
    finally:
        torch.set_num_threads(threads)
    depth_image, extrapolated = _depth(config, depth_weights)
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
        layer_token=rates.layer_token,
        head_token=head,
        decode_layer=rates.decode_layer,
        sequences=sequences,
        depth_image=depth_image,
        write=write,
        read=read,
        versions={"torch": torch.__version__, "transformers": transformers.__version__},
        extrapolated="; ".join(filter(None, (rates.extrapolated, extrapolated))),
    )


@dataclass(frozen=True)
class _Rates:
    """What layers take.

    Attributes:
        layer_token: Seconds of a training pass, a layer and token.
        decode_layer: Seconds of a layer for one more token of each sequence.
        extrapolated: What was not measured, and what it was computed from; empty where all was.
    """

    layer_token: float
    decode_layer: float
    extrapolated: str = ""


def _rates(shape: Shape, r: int, dtype: torch.dtype, where: str, sequences: int) -> _Rates:
    """Measures layers as far as `LIMIT` seconds reach, after products that say how far that is."""
    began = time.monotonic()
    tokens = _tokens(shape, where)
    trained, decoded = (_product(rows, shape, dtype, where) * _weights(shape) for rows in (tokens, sequences))
    prompt = trained * PROMPT[where] * sequences / tokens
    # Each is done twice: a training pass, and two decodings with their prompts.
    layer = 2 * (PASSES * trained + 2 * prompt + (DECODED[where] + 2) * decoded)
    if layer > LIMIT:
        return _Rates(
            PASSES * trained / tokens,
            decoded,
            f"layers are extrapolated from products of {tokens} and {sequences} rows: one would take {layer:.0f} s here",
        )
    few = _layers(LAYERS[0], shape, r, dtype, where, sequences)
    spent = time.monotonic() - began
    more = spent * LAYERS[1] / LAYERS[0]
    if spent + more > LIMIT:
        return _Rates(
            few[0] / LAYERS[0] / tokens,
            few[1] / LAYERS[0],
            f"layers are extrapolated from {LAYERS[0]}: {LAYERS[1]} would take {more:.0f} s here",
        )
    many = _layers(LAYERS[1], shape, r, dtype, where, sequences)
    return _Rates(_a_layer((few[0], many[0])) / tokens, _a_layer((few[1], many[1])))


def _product(rows: int, shape: Shape, dtype: torch.dtype, where: str) -> float:
    """Seconds a weight of a product of so many rows with a matrix of a feed-forward layer, or with some of its columns."""
    states = torch.randn(rows, shape.hidden, device=where).to(dtype)
    columns = min(shape.inner, 256)
    while True:
        matrix = torch.randn(shape.hidden, columns, device=where).to(dtype)
        seconds = _seconds(lambda matrix=matrix: (states @ matrix, None)[1], PROBE)  # type: ignore[misc]
        if columns == shape.inner or seconds * 4 > PROBE:
            return seconds / (shape.hidden * columns)
        columns = min(shape.inner, columns * 4)


def _weights(shape: Shape) -> int:
    """Of a layer, about."""
    return shape.hidden * (4 * shape.hidden + 3 * shape.inner)


def _a_layer(seconds: Sequence[float]) -> float:
    """Seconds of a layer, from those of the two decoders; noise must not make it nothing."""
    few, many = seconds
    return max((many - few) / (LAYERS[1] - LAYERS[0]), many / LAYERS[1] / 10)


def _tokens(shape: Shape, where: str) -> int:
    """How many tokens the measured pass has."""
    return int(min(TOKENS[where], max(8, PRODUCTS[where] / (LAYERS[1] * _weights(shape)))))


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
    """Seconds of one product with the head, a token and thousand columns; of as many tokens as are quick."""
    columns = torch.randn(hidden, 8 * COLUMNS, device=where).to(dtype)
    rows = 8
    while True:
        states = torch.randn(rows, hidden, device=where).to(dtype)
        seconds = _seconds(lambda states=states: (states @ columns, None)[1], PROBE)  # type: ignore[misc]
        if rows == 256 or seconds * 4 > PROBE:
            return seconds / rows / 8
        rows = min(256, rows * 4)


def _depth(config: Config, weights: Path | None) -> tuple[float | None, str]:
    """Seconds for a picture's depth map, loading left out; and what of it was not measured, if anything."""
    if weights is None:
        return None, ""
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    data = buffer.getvalue()

    def maps(count: int) -> float:
        began = time.perf_counter()
        pictures = ((f"{number:064}", data) for number in range(count))
        assert len(list(depth_estimation.estimate(pictures, weights, config.depth))) == count
        return time.perf_counter() - began

    one = maps(1)  # with loading
    few, many = config.depth.batch, 3 * config.depth.batch
    if one * (few + many) > LIMIT:  # too much where loading takes most of it
        two = maps(2)
        return max(two - one, 1e-6), (
            f"depth maps are extrapolated from one picture: {few + many} would take up to {one * (few + many):.0f} s here"
        )
    return max((maps(many) - maps(few)) / (many - few), 1e-6), ""


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


def _seconds(work: Callable[[], None], enough: float = ENOUGH) -> float:
    """The shortest of some runs, after one that does not count.

    Args:
        work: a run.
        enough: seconds, after which it is not repeated more than once.
    """
    found: list[float] = []
    began = time.perf_counter()
    while len(found) <= REPEATS and (len(found) < 2 or time.perf_counter() - began < enough):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return min(found[1:])
