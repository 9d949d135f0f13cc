"""Measures annotation against the stand-in server.

python -m tests.benchmarks.annotation compare --rows 2000     the authors' way and distilabel's beside ours, 1 s latency
python -m tests.benchmarks.annotation rate --rows 2000        calls a second at 1 s latency and 256 in flight
python -m tests.benchmarks.annotation memory --rows 50000     peak memory as rows grow

"The authors' way" is written from the description in PAPER.md (R2.5 to R2.9), not from their code:
30 threads, three tries without back-off or classification, the only check is "```", one shared list that is
appended outside the lock and flushed into one JSON file, rewritten whole, when (index + 1) % 30 == 0. distilabel 1.5.3
asks batch by batch, loses a batch with the first error in it, and keeps what it is answered; what is sound of it is
counted with our check, as of the authors'.
"""

import argparse
import contextlib
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sifthinker import llm
from sifthinker.annotation import annotate
from sifthinker.annotation.acceptance import Accepted, check
from sifthinker.config import Api
from sifthinker.core import depth_maps, drawing
from sifthinker.core.records import Annotation, Region, Sample
from sifthinker.llm import judge, standin
from sifthinker.llm.ledger import Reply
from sifthinker.llm.ledger_sqlite import SqliteLedger
from sifthinker.llm.usage import Usage
from tests import annotation_rows as rows
from tests.benchmarks import others
from tests.benchmarks.pair import peak
from tests.ledgers import counts

FAULTS = {kind: 0.3 / len(standin.FAULTS) for kind in standin.FAULTS}
STALL = 20.0  # seconds; the authors set no time-out
TOGETHER = 512  # calls in flight: ours, distilabel's; the authors have 30 threads


def authors(folder: Path, count: int, url: str) -> dict[str, float]:
    """Annotates as the release does; what became of the rows."""
    names = rows.pictures(folder, min(count, 40))
    slope = depth_maps.decode_bytes(next(rows.maps(names)).png)
    samples = list(rows.samples(names, count))
    asked = {row.id: depth_maps.regions(rows.focus(row).steps, slope) for row in samples}
    out, lock, done = folder / "authors.json", threading.Lock(), []

    def ask(row) -> str | None:
        body = {"model": "m", "messages": _messages(folder, row, asked[row.id]), "max_tokens": 2048}
        request = urllib.request.Request(
            f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)["choices"][0]["message"]["content"]

    def work(index: int) -> None:
        row = samples[index]
        for _ in range(3):
            with contextlib.suppress(Exception):  # as the release does
                text = ask(row)
                if "```" in text:
                    done.append({"id": row.id, "response": text.split("```")[1]})
                    break
        if (index + 1) % 30 == 0:
            with lock:
                old = json.loads(out.read_text()) if out.exists() else []
                out.write_text(json.dumps(old + done, indent=4))
                done.clear()

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(work, range(count)))
    kept = json.loads(out.read_text()) if out.exists() else []
    replies = {row["id"]: f"```{row['response']}```" for row in kept}
    return {"kept": len(kept), "sound": _sound(samples, asked, replies), "rejected": 0}


def _messages(folder: Path, row: Sample, asked: Sequence[Sequence[Region]]) -> list[dict[str, Any]]:
    pictures = [
        llm.image_url(
            drawing.annotated((folder / row.image).read_bytes(), [r.box for r in step], 589_824, 90)
        )
        for step in asked
    ]
    return annotate.messages(row, asked, pictures)


def _sound(samples: Sequence[Sample], asked: Mapping[str, Any], replies: Mapping[str, str]) -> int:
    return sum(
        isinstance(check(replies[row.id], asked[row.id], row), Accepted)
        for row in samples
        if row.id in replies
    )


def distilabel(folder: Path, count: int, url: str) -> dict[str, float]:
    """Annotates with distilabel's ChatGeneration; every content is a list of parts, which its tables need."""
    names = rows.pictures(folder, min(count, 40))
    slope = depth_maps.decode_bytes(next(rows.maps(names)).png)
    samples = list(rows.samples(names, count))
    asked = {row.id: depth_maps.regions(rows.focus(row).steps, slope) for row in samples}
    source, out = folder / "rows.jsonl", folder / "replies.jsonl"
    empty = {"text": None, "image_url": None}
    with source.open("w") as file:
        for row in samples:
            told = []
            for message in _messages(folder, row, asked[row.id]):
                content = message["content"]
                parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
                told.append({"role": message["role"], "content": [empty | part for part in parts]})
            file.write(json.dumps({"id": row.id, "messages": told}) + "\n")
    program = [str(others.environment("distilabel")), others.__file__, "distilabel"]
    command = [*program, url, str(source), str(out), str(TOGETHER)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    if done.returncode:
        raise RuntimeError(f"distilabel failed: {done.stderr[-2000:]}")
    found = [json.loads(line) for line in out.read_text().splitlines()]
    replies = {row["id"]: row["reply"] for row in found if row["reply"]}
    return {"kept": len(replies), "sound": _sound(samples, asked, replies), "rejected": 0}


def ours(folder: Path, count: int, url: str) -> dict[str, float]:
    """Annotates with this project's engine."""
    config = rows.settings(concurrency=TOGETHER, timeout=5.0)
    results = list(rows.run(folder, count, url, folder / "calls.db", config))
    kept = sum(isinstance(row, Annotation) for row in results)
    return {"kept": kept, "sound": kept, "rejected": count - kept}


WAYS = {"authors": authors, "distilabel": distilabel, "ours": ours}


def compare(
    count: int,
    ways: Sequence[str] = tuple(WAYS),
    faults: Mapping[str, float] = FAULTS,
    latency: float = 1.0,
) -> list[dict[str, float | str]]:
    """Each way against a server of its own, equal to the others', in a process of its own."""
    table = []
    for way in ways:
        with (
            tempfile.TemporaryDirectory() as folder,
            standin.running(Path(folder) / "log", dict(faults), latency=latency, stall=STALL) as url,
        ):
            command = [sys.executable, "-m", "tests.benchmarks.annotation", "way", "--way", way, "--url", url]
            text = subprocess.run(
                [*command, "--rows", str(count), "--folder", folder],
                check=True,
                capture_output=True,
                text=True,
                cwd=others.ROOT,
            ).stdout
            counts = standin.counts(url)
        result = json.loads(text.splitlines()[-1])
        paid = counts["prompt_tokens"] + counts["completion_tokens"]
        table.append(
            {
                "way": way,
                "faults": f"{sum(faults.values()):.0%}",
                "rows": count,
                "answers paid": counts["answered"],
                "tokens": paid,
                "sound rows a second": round(result["sound"] / result["seconds"], 1),
                **result,
            }
        )
    return table


def markdown(table: list[dict[str, float | str]]) -> str:
    names = list(table[0])
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *(f"| {' | '.join(str(row[name]) for name in names)} |" for row in table)])


def ledger_alone(folder: Path, count: int, together: int = 8) -> float:
    """Seconds a call to claim and settle as the engine does, `together` in a commit, with nothing else running.

    In a run its thread also waits for the interpreter, which the rest of the client holds meanwhile: `rate` shows
    that time too.
    """
    reply = Reply("x" * 400, "stop", "m", 1000, 100)
    with contextlib.closing(SqliteLedger(folder / "alone.db")) as ledger:
        began = time.perf_counter()
        for first in range(0, count, together):
            names = [f"{n}" for n in range(first, min(first + together, count))]
            with ledger.transaction(durable=False):
                assert [ledger.claim(name, "a", bytes(3000)) for name in names] == ["mine"] * len(names)
            with ledger.transaction():
                for name in names:
                    ledger.settle(name, reply, Usage(1, 1000, 0, 100))
        seconds = time.perf_counter() - began
        assert counts(ledger) == {"ok": count}
    return seconds / count


def rate(count: int, concurrency: int = 256, latency: float = 1.0) -> dict[str, float]:
    """Calls a second of the engine, with a picture of 30 kB each, against what the latency allows."""
    picture = llm.image_url(bytes(30_000))
    with (
        tempfile.TemporaryDirectory() as folder,
        standin.running(Path(folder) / "log", latency=latency) as url,
        llm.Client(Api(concurrency=concurrency), Path(folder) / "calls.db", url) as client,
    ):
        began, cpu = time.monotonic(), time.process_time()
        client.ask_all(judge.request("q", "a", f"b{n}", picture) for n in range(count))
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        ledger = client.engine.commits.seconds
        alone = ledger_alone(Path(folder), count)
    ideal = math.ceil(count / concurrency) * latency
    return {
        "calls": count,
        "seconds": round(seconds, 2),
        "ideal seconds": ideal,
        "share of the ideal rate": round(ideal / seconds, 3),
        "processor ms a call": round(1000 * cpu / count, 2),
        "ledger alone ms a call": round(1000 * alone, 2),
        "ledger and its waiting for the interpreter ms a call": round(1000 * ledger / count, 2),
        "peak MiB": peak() // 2**20,
    }


def memory(count: int) -> dict[str, list[int]]:
    """Rows done and peak memory (MiB) along one part of `count` rows, pictures included."""
    marks: dict[str, list[int]] = {"rows": [], "peak MiB": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        standin.running(Path(folder) / "log", latency=0.05) as url,
    ):
        config = rows.settings(concurrency=64, timeout=60.0)
        for number, _ in enumerate(
            rows.run(Path(folder), count, url, Path(folder) / "calls.db", config, 1000), 1
        ):
            if number % max(1, count // 10) == 0:
                marks["rows"].append(number)
                marks["peak MiB"].append(peak() // 2**20)
                print(number, peak() // 2**20, file=sys.stderr)
    return marks


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["compare", "rate", "memory", "way"])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--way", choices=list(WAYS))
    parser.add_argument("--url")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.what == "way":  # a process of `compare`
        began = time.monotonic()
        result = WAYS[options.way](options.folder, options.rows, options.url)
        print(
            json.dumps({**result, "seconds": round(time.monotonic() - began, 1), "peak MiB": peak() // 2**20})
        )
    elif options.what == "compare":
        print(markdown(compare(options.rows) + compare(options.rows, faults={})))
    else:
        print(markdown([{"rate": rate, "memory": memory}[options.what](options.rows)]))


if __name__ == "__main__":
    main()
