"""Rendered scenes to pre-train on: drawn once, in processes of their own ahead of the training, and read in order.

A pool is a folder of shards, `scenes-<number>.parquet`, of `SHARD` scenes each. A shard depends on the pool's stream,
seed and picture size alone. An interrupted pool is therefore continued, and two pools of one seed are equal.

    image: JPEG, as `sif scenes` writes it
    depth: PNG of (H, W) uint8, index in `depth.palette` (0 = farthest, 255 = nearest)
    facts: JSON, what can be said about the scene (`_facts`)
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from sifthinker import scenes
from sifthinker.core.errors import UserError
from sifthinker.scenes import questions
from sifthinker.scenes.layout import Scene
from sifthinker.system import processes
from sifthinker.system.files import write_json

SHARD = 64  # scenes
CELL = 28  # pixels: what one token of a Qwen2.5-VL sees
_A_KIND = 3  # questions of a kind that are kept of a scene
_QUESTIONS = (
    questions.colors,
    questions.shapes,
    questions.sizes,
    questions.checks,
    questions.sides,
    questions.orders,
    questions.nearer,
    questions.nearest,
    questions.existence,
    questions.counts,
)


@dataclass(frozen=True, slots=True)
class Pool:
    """A folder of rendered scenes, and what decides them."""

    folder: Path
    seed: int
    stream: str = "pretrain"
    width: int = 224
    height: int = 168
    fewest: int = 2  # solids in a scene
    most: int = 5
    alike: float = 0.0  # share of the solids that are like an earlier one

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return self.folder / f"scenes-{shard:05}.parquet"


@dataclass(frozen=True, slots=True)
class Seen:
    """A scene as it is trained on."""

    image: npt.NDArray[np.uint8]  # (H, W, 3) RGB
    depth: npt.NDArray[np.uint8]  # (H, W): 0 = farthest, 255 = nearest
    facts: dict[str, Any]


class Rendering:
    """Renders what is missing of the first `count` scenes, in order, in a process of its own, until `stop`.

    Raises:
        UserError: the folder holds scenes of other settings.
    """

    def __init__(self, pool: Pool, count: int) -> None:
        """Starts at once."""
        pool.folder.mkdir(parents=True, exist_ok=True)
        _claim(pool)
        missing = [(pool, shard) for shard in range(-(-count // SHARD)) if not pool.path(shard).exists()]
        # Never forked: torch's threads do not survive it.
        self._workers = multiprocessing.get_context("spawn").Pool(1, _begin, (os.getpid(),))
        self._result = self._workers.map_async(_render, missing, chunksize=1)

    def check(self) -> None:
        """Raises what went wrong in the process."""
        if self._result.ready():
            self._result.get()

    def stop(self) -> None:
        """Ends the process, wherever it is."""
        self._workers.terminate()


def _claim(pool: Pool) -> None:
    """Writes down what the folder's scenes are, once."""
    told = {
        key: value
        for key, value in asdict(pool).items()
        if key != "folder" and (key, value) != ("alike", 0.0)
    }
    path = pool.folder / "pool.json"
    if not path.exists():
        write_json(path, told)
    found = json.loads(path.read_text(encoding="utf-8"))
    if found != told:
        raise UserError(f"{pool.folder}: holds scenes of {found}, not of {told}; take another folder")


def _begin(parent: int) -> None:
    """A process that renders: in the background, and gone when the training is."""
    os.nice(5)
    processes.end_with(parent, group=False)


def read(pool: Pool, shard: int, rendering: Rendering | None = None) -> list[Seen]:
    """The scenes of a shard; waits for it while it is being rendered.

    Raises: what went wrong in the rendering; FileNotFoundError without one.
    """
    path = pool.path(shard)
    while rendering and not path.exists():
        rendering.check()
        time.sleep(0.2)
    rows = pq.read_table(path).to_pylist()
    return [
        Seen(
            np.asarray(Image.open(io.BytesIO(row["image"]))),
            np.asarray(Image.open(io.BytesIO(row["depth"]))),
            json.loads(row["facts"]),
        )
        for row in rows
    ]


def _render(task: tuple[Pool, int]) -> None:
    pool, shard = task
    rows = list(_rows(pool, shard))
    temporary = pool.path(shard).with_suffix(f".{os.getpid()}")
    pq.write_table(pa.Table.from_pylist(rows), temporary, compression="none")
    temporary.rename(pool.path(shard))


def _rows(pool: Pool, shard: int) -> Iterator[dict[str, Any]]:
    drawn = scenes.stream(
        pool.stream,
        pool.seed,
        pool.width,
        pool.height,
        shard * SHARD,
        pool.fewest,
        pool.most,
        alike=pool.alike,
    )
    for _, (scene, rng) in zip(range(SHARD), drawn, strict=False):
        depth = np.rint((1 - scene.view.depth) * 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(depth).save(buffer, "PNG", compress_level=3)
        facts = json.dumps(_facts(scene, rng))
        yield {"image": scenes.jpeg(scene), "depth": buffer.getvalue(), "facts": facts}


def _facts(scene: Scene, rng: np.random.Generator) -> dict[str, Any]:
    """The things with box (0..1), depth and names; `cells`; what is beside what; up to `_A_KIND` questions a kind and answer."""
    view = scene.view
    size = np.array([view.width, view.height, view.width, view.height])
    asked: list[dict[str, Any]] = []
    for ask in _QUESTIONS:
        found = list(ask(scene))
        kept: dict[str, int] = {}
        for index in rng.permutation(len(found)):
            question = found[index]
            kept[question.balance or question.answer] = kept.get(question.balance or question.answer, 0) + 1
            if kept[question.balance or question.answer] <= _A_KIND:
                asked.append(
                    {
                        "kind": question.kind,
                        "text": question.text,
                        "answer": question.answer,
                        "balance": question.balance or question.answer,
                        "things": list(question.things),
                    }
                )
    pairs = [(*pair,) for ask in (questions.existence_pairs, questions.size_pairs) for pair in ask(scene)]
    for index in rng.permutation(len(pairs))[:4]:
        asked += [
            {
                "kind": q.kind,
                "text": f"{q.text} Answer with Yes or No.",
                "answer": q.answer,
                "balance": q.answer,
                "things": list(q.things),
            }
            for q in pairs[index]
        ]
    return {
        "things": [
            {
                "box": [round(float(v), 4) for v in np.array(thing.box) / size],
                "depth": round(thing.depth, 4),
                "shape": thing.solid.shape,
                "color": thing.solid.color,
                "size": thing.solid.size,
                "name": questions.name(scene, index),
                "names": questions.expressions(scene, index),
            }
            for index, thing in enumerate(scene.things)
        ],
        "questions": asked,
        "beside": [[place, list(found)] for place, _, found in questions.beside(scene)],
        "cells": _cells(view.ids).tolist(),
    }


def _cells(ids: npt.NDArray[np.int16]) -> npt.NDArray[np.int64]:
    """(H / CELL, W / CELL): the thing that most of a cell's things' pixels belong to, -1 where a tenth is none's."""
    rows, columns = ids.shape[0] // CELL, ids.shape[1] // CELL
    cells = ids[: rows * CELL, : columns * CELL].reshape(rows, CELL, columns, CELL).transpose(0, 2, 1, 3)
    counts = np.stack([(cells == index).sum(axis=(2, 3)) for index in range(max(1, ids.max() + 1))])
    best = counts.argmax(axis=0)
    return np.where(counts.max(axis=0) >= 0.1 * CELL * CELL, best, -1)
