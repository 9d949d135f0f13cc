"""The data stages at VisCoT's size: seconds, memory and rows of each, as the data set grows.

    python -m tests.benchmarks.full_size [--sizes 10000 100000 400000] [--json FILE]

Every stage of every size is a process of its own, on one core, and writes what the stage writes. Ingest and expand work
on VisCoT's real benchmark rows over and over (`../shared/data` must be there); publish joins chains, maps and pictures of
64x48, one for eight questions: what it costs beside the pictures themselves, which `sif bench` measures at 640x480.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from sifthinker import config
from sifthinker.core import chain, depth_maps, records, tables
from sifthinker.core.images import ImageLibrary
from sifthinker.core.records import WHOLE, Annotation, DepthMap, Sample
from sifthinker.data import expansion, ingest, publish
from tasks.runtime.stage import Job
from tasks.stages.ingest import IN_MEMORY, MIN_BATCH
from tests.benchmarks import ingest as viscot
from tests.benchmarks.pair import peak

SIZES = (10_000, 100_000, 400_000)
PART = 10_000  # rows, about
WIDTH, HEIGHT, QUESTIONS = 64, 48, 8


def ingesting(folder: Path, size: int) -> dict[str, int]:
    source = config.Source(
        name="viscot", format="viscot", path=folder / "viscot.json", sizes=folder / "sizes.jsonl"
    )
    settings = config.Ingest(total=size, cap=size)
    return _written(
        folder,
        "samples",
        tables.SAMPLES,
        ingest.ingest([source], settings),
        lambda row: ingest.part(row, _parts(size)),
        _parts(size),
        max(MIN_BATCH, min(1000, IN_MEMORY // _parts(size))),
    )


def expanding(folder: Path, size: int) -> dict[str, int]:
    rows = map(records.sample, tables.read(sorted(folder.glob("samples-*.parquet"))))
    return _written(folder, "focus", tables.FOCUS, expansion.expand_samples(rows, config.Expand()))


def publishing(folder: Path, size: int) -> dict[str, int]:
    images = ImageLibrary({"photos": folder / "photos"}, 10**7)

    part_of: dict[str, int] = {}

    def rows() -> Any:
        for part in range(_parts(size)):
            of = folder / f"photos-samples-{part:05}.parquet"
            for row in publish.rows(
                map(records.sample, tables.read(of)),
                map(records.annotation, tables.read(folder / f"photos-chains-{part:05}.parquet")),
                (DepthMap(**row) for row in tables.read(folder / f"photos-maps-{part:05}.parquet")),
                images,
            ):
                part_of[row["id"]] = part
                yield row

    return _written(
        folder,
        "sif",
        tables.SIF,
        rows(),
        lambda row: part_of.pop(row["id"]),
        _parts(size),
        publish.ROW_GROUP,
        part_by_part=True,
    )


STAGES: dict[str, Callable[[Path, int], dict[str, int]]] = {
    "ingest": ingesting,
    "expand": expanding,
    "publish": publishing,
}


def prepare(folder: Path, size: int) -> dict[str, int]:
    """What the stages read."""
    viscot.prepare(folder, size)
    (folder / "photos").mkdir()
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(buffer, "JPEG")
    ramp = np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    png = depth_maps.encode(ramp)
    steps = depth_maps.regions([(WHOLE,), ((0.1, 0.2, 0.5, 0.6),)], ramp)
    text = chain.render(
        chain.Chain(tuple(chain.Step(step, "Here it is said what can be seen.") for step in steps), "A cat")
    )
    part_size = -(-size // _parts(size))
    for part in range(_parts(size)):
        with ExitStack() as stack:
            samples, chains, maps = (
                stack.enter_context(tables.Writer(folder / f"photos-{name}-{part:05}.parquet", schema))
                for name, schema in (
                    ("samples", tables.SAMPLES),
                    ("chains", tables.CHAINS),
                    ("maps", tables.MAPS),
                )
            )
            for number in range(part * part_size, min(size, (part + 1) * part_size)):
                if number % QUESTIONS == 0 or number == part * part_size:
                    name = f"{number}.jpg"
                    data = buffer.getvalue() + str(number).encode()  # pictures that differ
                    (folder / "photos" / name).write_bytes(data)
                    digest = sha256(data).hexdigest()
                    maps.add(DepthMap(digest, WIDTH, HEIGHT, png))
                about = ("photos", "gqa", "train", "What is it?", "A cat", name, digest, WIDTH, HEIGHT)
                id = f"photos/gqa/{number:08}"
                samples.add(Sample(id, *about, boxes=((0.1, 0.2, 0.5, 0.6),)))
                chains.add(Annotation(id, steps, text, "standin", 1, 100, 20, ()))
    return {"kept": size, "rejected": 0}


def _parts(size: int) -> int:
    return max(1, size // PART)


def _written(folder: Path, name: str, schema: Any, rows: Any, *how: Any, **options: Any) -> dict[str, int]:
    """As the stage writes its table: by `Job.keep`."""
    draft: Any = SimpleNamespace(out=folder, rows=None)
    nothing: Any = None
    progress: Any = SimpleNamespace(add=lambda _: None)
    Job(nothing, nothing, {}, draft, {}, nothing, progress).keep(name, schema, rows, *how, **options)
    return {"kept": draft.rows["kept"], "rejected": sum(draft.rows["rejected"].values())}


def _work(stage: str, folder: Path, size: int, pipe: Connection) -> None:
    began, cpu = time.perf_counter(), time.process_time()
    rows = (prepare if stage == "prepare" else STAGES[stage])(folder, size)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    pipe.send(
        {"stage": stage, "rows": size, **rows, "seconds": seconds, "processor": cpu, "peak": peak() / 2**20}
    )


def measure(sizes: tuple[int, ...] = SIZES) -> list[dict[str, Any]]:
    """One row a stage and size; every row in comes out kept or rejected.

    Raises:
        AssertionError: rows were lost.
    """
    found = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as made:
            for stage in ("prepare", *STAGES):
                here, there = multiprocessing.Pipe()
                process = multiprocessing.get_context("spawn").Process(
                    target=_work, args=(stage, Path(made), size, there)
                )
                process.start()
                there.close()
                try:
                    row = here.recv()
                except EOFError as error:
                    raise RuntimeError(f"{stage} of {size} rows failed; its traceback is above") from error
                process.join()
                assert row["kept"] + row["rejected"] == size, row
                if stage != "prepare":
                    found.append(row)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| stage | rows | kept | seconds | us a row | processor us a row | peak MiB |", "|---" * 7 + "|"]
    for row in rows:
        each = 1e6 / row["rows"]
        lines.append(
            f"| {row['stage']} | {row['rows']:,} | {row['kept']:,} | {row['seconds']:.1f} | {row['seconds'] * each:.0f} "
            f"| {row['processor'] * each:.0f} | {row['peak']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    rows = measure(tuple(options.sizes))
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
