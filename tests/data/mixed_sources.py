"""Sources of all kinds with all sorts of rows, of which ingest's caps leave some: an input whose files can be compared."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from sifthinker.config import Ingest, Source
from sifthinker.core.tables import read

SETTINGS = Ingest(cap=70, total=150, seed=3, shards=5)


def sources(folder: Path) -> list[Source]:
    """Writes some hundred rows: good, broken, repeated, excluded, of images that are broken or missing."""
    images = folder / "images"
    images.mkdir(parents=True)
    for number in range(12):
        Image.new("RGB", (40, 30), (number, 9, 9)).save(images / f"{number}.bmp")
    (images / "3.bmp").write_bytes(b"no picture")
    rows: list[Any] = [_row(number, f"{number % 14}.bmp") for number in range(160)]
    rows[20] = {**rows[20], "question_id": 5}  # of an earlier row
    rows[21] = {**rows[21], "question_id": 5}
    rows[30] = {**rows[30], "dataset": "docvqa"}  # excluded
    rows[31] = {**rows[30]}  # excluded, and repeated
    rows[40] = {**rows[40], "answer": ""}
    rows[41] = {**rows[41], "bboxs": [[4, 3, 90, 15]]}
    rows[42] = [1, 2]
    rows[43] = {**rows[43], "question": "\ud800"}
    lines = [json.dumps(row).encode() for row in rows]
    lines[50] = b"no json"
    lines[51] = b'{"question": "\xff"}'
    (folder / "opened.jsonl").write_bytes(b"\n".join(lines))
    closed = [_row(number, f"{number}.jpg", dataset="vsr") for number in range(150)]
    for row in closed[::10]:
        del row["width"], row["height"]  # and nobody opens its image
    (folder / "closed.json").write_text(json.dumps(closed, indent=1))
    (folder / "published.json").write_text(json.dumps([_published(number) for number in range(60)]))
    return [
        Source(name="opened", format="viscot", path=folder / "opened.jsonl", images=images),
        Source(name="closed", format="viscot", path=folder / "closed.json"),
        Source(name="published", format="published", path=folder / "published.json", images=images),
    ]


def _row(number: int, image: str, dataset: str = "") -> dict[str, Any]:
    return {
        "question": f"Is it {number}?",
        "answer": "Yes",
        "image": image,
        "width": 40,
        "height": 30,
        "bboxs": [[4, 3, 20.5, 15]],
        "dataset": dataset or ("gqa" if number % 3 else "cub"),
        "split": "train",
        "question_id": number,
    }


def _published(number: int) -> dict[str, Any]:
    image, asked = f"{number % 13}.bmp", f"What is {number}?"
    return {
        "dataset": "flickr30k",
        "image": image,
        "depth_image": f"{number}_d.png",
        "problem": asked,
        "normalized_solution_round": {"bbox_3d": [[0.25, 0.25, 0.75, 0.5]], "illegal_content": False},
        "response": "window",
        "messages": [
            {"content": f"Original image: <image>\n{asked}", "role": "user"},
            {"content": f"<think>{number}</think>", "role": "assistant"},
        ],
    }


def digests(folder: Path) -> dict[str, str]:
    """Of the bytes of a folder's Parquet files."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in _files(folder)}


def contents(folder: Path) -> str:
    """A digest of the rows and row groups of a folder's Parquet files, whatever version of Arrow wrote them."""
    found = hashlib.sha256()
    for path in _files(folder):
        with pq.ParquetFile(path) as file:
            groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        found.update(json.dumps([path.name, groups, list(read(path))]).encode())
    return found.hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))
