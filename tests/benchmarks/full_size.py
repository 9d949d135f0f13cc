"""The data stages at VisCoT's size: seconds, memory and rows of each, as the data set grows.

    python -m tests.benchmarks.full_size [--sizes 10000 100000 400000] [--stages ingest expand publish] [--processes 1 2]
        [--rounds 3] [--json FILE]

Every stage of every size is a process of its own, which starts others where it is given more than one (`expand` never does,
its shards go to Dask), and writes what the stage writes. Numbers of processes take turns, and their files must be equal. Ingest and expand work
on VisCoT's real benchmark rows over and over (`../shared/data` must be there); publish joins chains, maps and pictures of
64x48, one for eight questions: what it costs beside the pictures themselves, which `sif bench` measures at 640x480. The stage
`pictures` is ingest where each of VisCoT's benchmark rows has its picture, as large as the real one.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
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
from sifthinker.core.records import WHOLE, Annotation, DepthMap, Reject, Sample
from sifthinker.data import expansion, ingest, publish
from sifthinker.system.cores import Workers
from tasks.runtime.stage import Job
from tests.benchmarks import ingest as viscot
from tests.benchmarks.pair import peak

SIZES = (10_000, 100_000, 400_000)
PART = 10_000  # rows, about
WIDTH, HEIGHT, QUESTIONS = 64, 48, 8


def ingesting(folder: Path, size: int, workers: Workers) -> dict[str, int]:
    source = config.Source(
        name="viscot", format="viscot", path=folder / "viscot.json", sizes=folder / "sizes.jsonl"
    )
    parts = _parts(size)
    return _gathered(
        folder,
        ingest.write(
            [source],
            config.Ingest(total=size, cap=size, shards=parts),
            [folder / f"samples-{part:05}.parquet" for part in range(parts)],
            (),
            workers,
            ingest.Tally(),
        ),
    )


def pictured(folder: Path, size: int, workers: Workers) -> dict[str, int]:
    source = config.Source(
        name="viscot", format="viscot", path=folder / "pictured.json", images=folder / "pictures"
    )
    parts = [folder / f"pictured-{part:05}.parquet" for part in range(_parts(size))]
    settings = config.Ingest(total=size, cap=size, shards=len(parts))
    return _gathered(folder, ingest.write([source], settings, parts, (), workers, ingest.Tally()))


def expanding(folder: Path, size: int, workers: Workers) -> dict[str, int]:
    rows = map(records.sample, tables.read(sorted(folder.glob("samples-*.parquet"))))
    kept = tables.write(
        folder / "focus.parquet", tables.FOCUS, expansion.expand_samples(rows, config.Expand())
    )
    return {"kept": kept, "rejected": 0}


def publishing(folder: Path, size: int, workers: Workers) -> dict[str, int]:
    images = ImageLibrary({"photos": folder / "photos"}, 10**7)
    parts = [
        publish.Part(
            *(folder / f"photos-{name}-{part:05}.parquet" for name in ("samples", "chains", "maps")),
            folder / f"sif-{part:05}.parquet",
            images,
        )
        for part in range(_parts(size))
    ]
    written = list(workers.map(publish.write_part, parts))
    return {
        "kept": sum(part.kept for part in written),
        "rejected": sum(len(part.rejects) for part in written),
    }


STAGES: dict[str, Callable[[Path, int, Workers], dict[str, int]]] = {
    "ingest": ingesting,
    "expand": expanding,
    "publish": publishing,
    "pictures": pictured,
}
ROWS = ("ingest", "expand", "publish")  # the stages that are measured unless others are named
HEAD = (
    "| stage | rows | processes | seconds | us a row | processor us a row | of it in the first process | peak MiB | of another |"
    f"\n{'|---' * 9}|"
)
WRITTEN = {
    "ingest": "samples-*.parquet",
    "expand": "focus.parquet",
    "publish": "sif-*.parquet",
    "pictures": "pictured-*.parquet",
}


def prepare_pictures(folder: Path, size: int) -> dict[str, int]:
    """VisCoT's benchmark rows over and over, each time with pictures of their own: one file a size, under many names."""
    lines = [line for name in viscot.NAMES for line in (viscot.VISCOT / f"benchmark_det_{name}.jsonl").open()]
    sizes = {row["img_path"]: (row["width"], row["height"]) for row in map(json.loads, lines)}
    real = [
        row
        for name in viscot.NAMES
        for row in json.loads((viscot.VISCOT / f"benchmark_{name}.json").read_text())
        if row["image"][0] in sizes
    ]
    drawn = np.random.default_rng(0)
    with (folder / "pictured.json").open("w") as file:
        for number in range(size):
            row, time_round = real[number % len(real)], number // len(real)
            path, width, height = row["image"][0], *sizes[row["image"][0]]
            photo = folder / f"photo-{width}x{height}.jpg"
            if not photo.exists():
                coarse = drawn.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
                Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(
                    photo, "JPEG", quality=90
                )
            name = folder / "pictures" / f"{time_round}" / path
            if not name.exists():
                name.parent.mkdir(parents=True, exist_ok=True)
                name.hardlink_to(photo)
            images = [f"{time_round}/{image}" for image in row["image"]]
            text = json.dumps({**row, "question_id": number, "image": images}, indent=4)
            file.write(("[\n" if number == 0 else ",\n") + text)
        file.write("\n]\n")
    return {"kept": size, "rejected": 0}


def prepare(folder: Path, size: int) -> dict[str, int]:
    """What the stages of `ROWS` read."""
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


PREPARE = {"prepare": prepare, "prepare pictures": prepare_pictures}


def _parts(size: int) -> int:
    return max(1, size // PART)


def _gathered(folder: Path, outcomes: Iterable[Reject | int]) -> dict[str, int]:
    """As the stage counts what it writes: by `Job.count`."""
    draft: Any = SimpleNamespace(out=folder, rows=None)
    nothing: Any = None
    progress: Any = SimpleNamespace(add=lambda _: None)
    Job(nothing, nothing, {}, draft, {}, nothing, progress).count(outcomes)
    return {"kept": draft.rows["kept"], "rejected": sum(draft.rows["rejected"].values())}


def _work(stage: str, folder: Path, size: int, processes: int, pipe: Connection) -> None:
    began, cpu = time.perf_counter(), time.process_time()
    if stage in PREPARE:
        rows, others = PREPARE[stage](folder, size), 0
    else:
        with Workers(processes) as workers:
            rows = STAGES[stage](folder, size, workers)
            asked = [workers.submit(peak) for _ in range(workers.ahead)]
            others = max(map(workers.result, asked)) if workers.ahead > 1 else 0
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    children = used.ru_utime + used.ru_stime
    pipe.send(
        {
            "stage": stage,
            "rows": size,
            **rows,
            "processes": processes,
            "seconds": seconds,
            "processor": cpu + children,
            "alone": cpu,
            "peak": peak() / 2**20,
            "others": others / 2**20,
        }
    )


def measure(
    sizes: tuple[int, ...] = SIZES,
    counts: tuple[int, ...] = (1,),
    rounds: int = 1,
    tell: Callable[[dict[str, Any]], None] = lambda row: None,
    stages: Sequence[str] = ROWS,
) -> list[dict[str, Any]]:
    """One row a stage, size and number of processes; every row in comes out kept or rejected, in the same files.

    Args:
        sizes: rows.
        counts: numbers of processes, which take turns.
        rounds: turns of each.
        tell: is told each row as soon as it is there; five million take an hour.
        stages: that are measured; of `ROWS` each needs those before it.

    Raises:
        AssertionError: rows were lost, or files differ with the number of processes.
    """
    found = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as made:
            if set(stages) & set(ROWS):
                _run("prepare", Path(made), size, 1)
            if "pictures" in stages:
                _run("prepare pictures", Path(made), size, 1)
            for stage in stages:
                digests = set()
                for _ in range(rounds):
                    for processes in counts:
                        row = _run(stage, Path(made), size, processes)
                        assert row["kept"] + row["rejected"] == size, row
                        found.append(row)
                        tell(row)
                        digests.add(_digest(Path(made), stage))
                assert len(digests) == 1, f"{stage}: other files with another number of processes"
    return found


def _run(stage: str, folder: Path, size: int, processes: int) -> dict[str, Any]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_work, args=(stage, folder, size, processes, there)
    )
    process.start()
    there.close()
    try:
        row: dict[str, Any] = here.recv()
    except EOFError as error:
        raise RuntimeError(f"{stage} of {size} rows failed; its traceback is above") from error
    process.join()
    return row


def _digest(folder: Path, stage: str) -> str:
    """Of the files that a stage wrote."""
    found = sha256()
    for path in sorted(folder.glob(WRITTEN[stage])):
        found.update(path.name.encode() + sha256(path.read_bytes()).digest())
    return found.hexdigest()


def table(rows: list[dict[str, Any]]) -> str:
    return "\n".join([HEAD, *map(line, rows)])


def line(row: dict[str, Any]) -> str:
    each = 1e6 / row["rows"]
    return (
        f"| {row['stage']} | {row['rows']:,} | {row['processes']} | {row['seconds']:.1f} | {row['seconds'] * each:.0f} "
        f"| {row['processor'] * each:.0f} | {row['alone'] * each:.0f} | {row['peak']:.0f} | {row['others']:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=ROWS)
    parser.add_argument("--processes", type=int, nargs="+", default=(1,), help="of ingest and publish")
    parser.add_argument(
        "--rounds", type=int, default=1, help="times that each number of processes has its turn"
    )
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    print(HEAD, flush=True)
    rows = measure(
        tuple(options.sizes),
        tuple(options.processes),
        options.rounds,
        lambda row: print(line(row), flush=True),
        options.stages,
    )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
