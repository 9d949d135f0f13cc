"""Depth values of boxes, against the authors' way.

Theirs (PAPER.md R4.1, R4.2 and R4.4): the map exists as a coloured 8-bit PNG only; every
time it is wanted, the whole picture is matched with the 256 colours by a nearest-neighbour tree. Ours reads a
16-bit map, and sums it up once for all boxes that will be asked for.

The stored maps hold the 256 values that a coloured picture can hold, so that both ways know the same depths.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from sifthinker.core import depth_maps
from tests.benchmarks.pair import Pair, Work, close

WIDTH, HEIGHT, BOXES = 640, 480, 10


def scene(seed: int, width: int = WIDTH, height: int = HEIGHT) -> depth_maps.Map:
    """A map with slopes and edges, of values that a coloured picture keeps: multiples of 1/255."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / width
    relief = np.sin(4 * x + draw.random()) + np.cos(5 * y + draw.random()) + 0.1 * np.sin(60 * x * y)
    for _ in range(6):  # things that stand out
        left, top = draw.integers(0, width // 2), draw.integers(0, height // 2)
        relief[top : top + height // 3, left : left + width // 4] += draw.random()
    return (np.rint(depth_maps.normalise(relief) * 255) / 255).astype(np.float32)


def random_boxes(count: int, draw: random.Random) -> list[list[float]]:
    found = []
    for _ in range(count):
        (x1, x2), (y1, y2) = (sorted(draw.sample(range(1001), 2)) for _ in "xy")
        found.append([x1 / 1000, y1 / 1000, x2 / 1000, y2 / 1000])
    return found


def prepare(folder: Path, size: int) -> None:
    draw = random.Random(0)
    for number in range(size):
        made = scene(number)
        (folder / f"{number}.png").write_bytes(depth_maps.encode(made))
        depth_maps.render(made).save(folder / f"{number}_d.png")
    boxes = [random_boxes(BOXES, draw) for _ in range(size)]
    (folder / "boxes.json").write_text(json.dumps(boxes))


def cold(folder: Path, size: int) -> Work:
    asked = json.loads((folder / "boxes.json").read_text())

    def work() -> list[float]:
        values = []
        for number, boxes in enumerate(asked):
            read = depth_maps.decode_bytes((folder / f"{number}.png").read_bytes())
            values += [depth_maps.box_depth(read, box) for box in boxes]
        return values

    return work


def seen(folder: Path, size: int) -> Work:
    asked = json.loads((folder / "boxes.json").read_text())
    maps = [
        depth_maps.SummedArea(depth_maps.decode_bytes((folder / f"{number}.png").read_bytes()))
        for number in range(size)
    ]
    return lambda: [found.mean(box) for found, boxes in zip(maps, asked, strict=True) for box in boxes]


def coloured(path: Path) -> np.ndarray:
    """The authors' decoding: nearest of the 256 colours for every pixel, depth = 1 - index / 255."""
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(np.float64)
    _, index = cKDTree(depth_maps.palette().astype(np.float64)).query(pixels.reshape(-1, 3))
    return 1 - index.reshape(pixels.shape[:2]) / 255


def mean(values: np.ndarray, box: list[float]) -> float:
    height, width = values.shape
    x1, y1, x2, y2 = box
    return float(
        values[
            math.floor(y1 * height) : math.ceil(y2 * height), math.floor(x1 * width) : math.ceil(x2 * width)
        ].mean()
    )


def authors(folder: Path, size: int) -> Work:
    asked = json.loads((folder / "boxes.json").read_text())

    def work() -> list[float]:
        values = []
        for number, boxes in enumerate(asked):
            read = coloured(folder / f"{number}_d.png")
            values += [mean(read, box) for box in boxes]
        return values

    return work


_AUTHORS = "colour PNG, nearest-neighbour tree, mean"
PAIRS = [
    Pair(
        "depth of 10 boxes, stored 640x480 map, cold",
        _AUTHORS, 50, 4, 1, "maps", prepare, cold, authors, close(1e-6), rounds=9,
    ),
    Pair(
        "depth of 10 boxes, map already seen",
        _AUTHORS, 2000, 4, 1, "maps", prepare, seen, authors, close(1e-6), rounds=9,
    ),
]  # fmt: skip
