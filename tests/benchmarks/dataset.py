"""What the stages with pictures cost beside the work that cannot be avoided.

* Publishing: photographs, maps and chains into Parquet, against a bare loop that reads both files, encodes the depth
  picture and writes the three to one plain file: the raw encode and disk rate. It joins and checks nothing.
* Depth: images to stored maps, against the same model alone in a loop over inputs that are ready, on as many
  threads. The model is the real architecture, random and tiny: with a larger one the other costs weigh less.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from sifthinker.config import Depth
from sifthinker.core import chain, depth_maps, tables
from sifthinker.core.images import ImageLibrary
from sifthinker.core.records import WHOLE, Annotation, DepthMap, Sample
from sifthinker.data import publish
from tests.benchmarks.depth import scene
from tests.benchmarks.pair import Pair, Work

WIDTH, HEIGHT = 640, 480
DEPTH = Depth()
DISTINCT = 64  # pictures; more of them are these again, in files that differ behind the picture's end


def photograph(number: int) -> bytes:
    """A JPEG of a photograph's size and detail, about 60 kB."""
    rough = np.random.default_rng(number).integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rough).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def prepare(folder: Path, size: int) -> None:
    drawn = [photograph(number) for number in range(min(size, DISTINCT))]
    maps = [depth_maps.encode(scene(number, WIDTH, HEIGHT)) for number in range(len(drawn))]
    for number in range(size):
        of, again = number % DISTINCT, number // DISTINCT
        (folder / f"{number}.jpg").write_bytes(drawn[of] + bytes(again))
        (folder / f"{number}.png").write_bytes(maps[of])


def publishing(folder: Path, size: int) -> Work:
    samples, chains, maps = [], [], []
    for number in range(size):
        sha256 = hashlib.sha256((folder / f"{number}.jpg").read_bytes()).hexdigest()
        png = (folder / f"{number}.png").read_bytes()
        id = f"photos/gqa/{number}"
        about = ("photos", "gqa", "train", "What is it?", "A cat", f"{number}.jpg", sha256, WIDTH, HEIGHT)
        samples.append(Sample(id, *about, boxes=(WHOLE,)))
        steps = depth_maps.regions([(WHOLE,)], depth_maps.decode_bytes(png))
        text = chain.render(chain.Chain((chain.Step(steps[0], "Here."),), "A cat"))
        chains.append(asdict(Annotation(id, steps, text, "standin", 1, 100, 20, ())))
        maps.append(DepthMap(sha256, WIDTH, HEIGHT, png))
    out = folder / "sif.parquet"

    def work() -> str:
        rows = publish.rows(samples, chains, maps, ImageLibrary({"photos": folder}, 10**7))
        tables.write(out, tables.SIF, rows, batch=publish.ROW_GROUP)
        return str(out)

    return work


def encoding(folder: Path, size: int) -> Work:
    out = folder / "raw"

    def work() -> str:
        with out.open("wb") as file:
            for number in range(size):
                png = (folder / f"{number}.png").read_bytes()
                picture = depth_maps.picture(depth_maps.decode_bytes(png))
                file.write((folder / f"{number}.jpg").read_bytes() + picture + png)
        return str(out)

    return work


def same_bytes(ours: str, other: str) -> None:
    rows = tables.read(Path(ours), ["image", "depth_image", "depth_map"])
    pieces = (row["image"]["bytes"] + row["depth_image"]["bytes"] + row["depth_map"] for row in rows)
    with Path(other).open("rb") as file:
        assert all(piece == file.read(len(piece)) for piece in pieces) and not file.read(1)


def prepare_depth(folder: Path, size: int) -> None:
    from sifthinker.models import toys

    toys.build_tiny_depth(0, folder / "weights")
    for number in range(min(size, DISTINCT)):
        (folder / f"{number}.jpg").write_bytes(photograph(number))


def estimating(folder: Path, size: int) -> Work:
    from sifthinker.data import depth_estimation

    out = folder / "maps.parquet"

    def images() -> Iterator[tuple[str, bytes]]:
        return ((str(number), (folder / f"{number % DISTINCT}.jpg").read_bytes()) for number in range(size))

    def work() -> str:
        tables.write(
            out, tables.MAPS, depth_estimation.estimate(images(), folder / "weights", DEPTH), batch=64
        )
        return str(out)

    return work


def modelling(folder: Path, size: int) -> Work:
    import torch

    from sifthinker.data import depth_estimation
    from sifthinker.models import loading

    model = loading.load_depth(folder / "weights")
    torch.set_num_threads(1)
    shape = depth_estimation.input_size(WIDTH, HEIGHT, DEPTH.size)
    inputs = []
    for number in range(min(size, DISTINCT)):
        with Image.open(folder / f"{number}.jpg") as photo:
            resized = photo.resize(shape, Image.Resampling.BICUBIC)
        pixels = (np.asarray(resized, dtype=np.float32) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        inputs.append(torch.from_numpy(pixels.astype(np.float32).transpose(2, 0, 1)[None].copy()))
    out = folder / "disparities.npy"

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return model(pixel_values=pixels).predicted_depth

    def work() -> str:
        with ThreadPoolExecutor(DEPTH.workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            found, *_ = (list(pool.map(forward, inputs[: size - at])) for at in range(0, size, DISTINCT))
        if not out.exists():  # in the first call, which is not counted
            np.save(out, torch.cat(found).numpy())
        return str(out)

    return work


def same_maps(ours: str, other: str) -> None:
    """Our maps are the model's output at the image's size, in 16 bits."""
    import torch

    rows, disparities = tables.read(Path(ours)), np.load(other)
    for row, disparity in zip(rows, disparities, strict=len(disparities) < DISTINCT):
        whole = torch.nn.functional.interpolate(
            torch.from_numpy(disparity)[None, None], (HEIGHT, WIDTH), mode="bilinear", align_corners=True
        )
        expected = depth_maps.normalise(whole[0, 0].numpy())
        assert np.abs(depth_maps.decode_bytes(row["png"]) - expected).max() < 1e-3


PAIRS = [
    Pair(
        "publishing with pictures, 640x480", "bare loop: read, encode, write",
        0.8, 128, 3, "rows", prepare, publishing, encoding, same_bytes, rounds=5,
    ),
    Pair(
        "depth stage, 640x480, tiny model", "the model alone in a loop, inputs ready",
        0.9, 8, 1, "images", prepare_depth, estimating, modelling, same_maps, rounds=3,
    ),
]  # fmt: skip
