"""Rows for the annotation tests and benchmark, and the program that they run and kill.

`python tests/annotation_rows.py FOLDER ROWS URL LEDGER OUT [MODEL]` annotates FOLDER's rows into OUT.
"""

import dataclasses
import hashlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from sifthinker import llm
from sifthinker.annotation import annotate
from sifthinker.config import Annotate, Api
from sifthinker.core import depth_maps
from sifthinker.core.images import ImageLibrary
from sifthinker.core.records import Annotation, DepthMap, Focus, Reject, Sample
from sifthinker.core.tables import CHAINS, REJECTS, write
from sifthinker.data import expansion
from sifthinker.llm.bookkeeping import SHARED, Place

WIDTH, HEIGHT = 96, 72
ANSWERS = ("a red coat", "3", "yes", "behind the tall tree", "no", "seven")


def pictures(folder: Path, count: int) -> list[tuple[str, str]]:
    """Writes `count` pictures; their names and digests."""
    random = np.random.default_rng(0)
    found = []
    for number in range(count):
        noise = random.integers(0, 255, (9, 12, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).resize((WIDTH, HEIGHT)).save(buffer, "PNG")
        (folder / f"{number}.png").write_bytes(buffer.getvalue())
        found.append((f"{number}.png", hashlib.sha256(buffer.getvalue()).hexdigest()))
    return found


def library(folder: Path) -> ImageLibrary:
    """Where the pictures are; of each, a million pixels are read."""
    return ImageLibrary({"test": folder}, 1_000_000)


def samples(names: list[tuple[str, str]], rows: int) -> Iterator[Sample]:
    for number in range(rows):
        name, digest = names[number % len(names)]
        left = 0.1 + 0.4 * (number % 97) / 97
        yield Sample(
            f"test/made/{number}",
            "test",
            "made",
            "train",
            f"What is number {number}?",
            ANSWERS[number % len(ANSWERS)],
            name,
            digest,
            WIDTH,
            HEIGHT,
            ((round(left, 3), 0.25, round(left + 0.25, 3), 0.5),),
        )


def focus(row: Sample) -> Focus:
    steps, distractor = expansion.focus(row.id, row.boxes, row.width, row.height)
    return Focus(row.id, row.image_sha256, tuple(map(tuple, steps)), distractor)


def maps(names: list[tuple[str, str]]) -> Iterator[DepthMap]:
    slope = np.linspace(0, 1, WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH)
    png = depth_maps.encode(slope)
    for _, digest in names:
        yield DepthMap(digest, WIDTH, HEIGHT, png)


def run(
    folder: Path,
    rows: int,
    url: str,
    ledger: Place,
    config: Annotate,
    images: int = 40,
    most: int | None = None,
) -> Iterator[Annotation | Reject]:
    """Annotates `rows` made-up rows whose pictures are in `folder`."""
    names = pictures(folder, min(rows, images))
    with llm.Client(config.api, ledger, url) as client:
        yield from annotate.annotate(
            samples(names, rows),
            map(focus, samples(names, rows)),
            maps(names),
            library(folder),
            client,
            config,
            most,
        )


def save(results: Iterator[Annotation | Reject], out: Path) -> tuple[int, int]:
    """Writes chains and rejects as Parquet under `out`; how many of each."""
    kept, rejected = [], []
    for row in results:
        (kept if isinstance(row, Annotation) else rejected).append(dataclasses.asdict(row))
    out.mkdir(exist_ok=True)
    write(out / "chains.parquet", CHAINS, kept)
    write(out / "rejects.parquet", REJECTS, rejected)
    return len(kept), len(rejected)


def digest(out: Path) -> str:
    """One digest of both files."""
    return hashlib.sha256(
        (out / "chains.parquet").read_bytes() + (out / "rejects.parquet").read_bytes()
    ).hexdigest()


def settings(**api: object) -> Annotate:
    """The stage's configuration for the stand-in: short time-outs, few in flight."""
    return Annotate(api=Api.model_validate({"concurrency": 32, "timeout": 2.0, "retries": 12, **api}))


if __name__ == "__main__":
    at, count, base_url, calls, target, *model = sys.argv[1:]
    chosen = settings(model=model[0]) if model else settings()
    place: Place = SHARED if calls == SHARED else Path(calls)
    save(run(Path(at), int(count), base_url, place, chosen), Path(target))
