"""Evaluation of V*Bench questions through a server with 200 ms latency, against asking one at a time.

The server answers every question alike, from a process of its own. One at a time is the authors' way (a loop around
the official client's call); it asks a tenth of the questions and its time is taken ten times.

`python -m tests.benchmarks.evaluation 500 5000` holds the evaluation's rate against what latency and concurrency allow:
as a whole (files read, pictures decoded, questions, scores and their intervals), for the questions alone (from the
first one that is sent to the last reply), and steady (between a tenth and nine tenths of the replies, so without the
first burst and the last wave). Imports and the server's start are before all of that. Processor times are of the
process (user and system); with several threads they can exceed the seconds.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import math
import multiprocessing
import random
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image

from sifthinker import config
from sifthinker.core import depth_maps, prompts, tables
from tests.benchmarks.depth import scene
from tests.benchmarks.pair import Pair, Work

LATENCY = 0.2  # seconds
PART = 10
_QUESTION = (
    "What is the colour of thing {number}?\n(A) red\n(B) blue\n"
    "Answer with the option's letter from the given choices directly."
)
_REPLY = (
    '<think><area>[{"bbox_2d": [0.1, 0.2, 0.6, 0.8], "depth": 0.5}]</area><text>Here.</text></think>'
    "<answer>A</answer>"
)


def prepare(folder: Path, size: int) -> None:
    draw = random.Random(0)
    lines = []
    for number in range(size):
        if number % 10 == 0:  # several questions an image
            pixels = Image.effect_noise((640, 480), 40 + number % 50).convert("RGB")
            pixels.save(folder / f"{number // 10}.jpg")
        row = {
            "image": f"{number // 10}.jpg",
            "text": _QUESTION.format(number=number),
            "category": draw.choice(("direct_attributes", "relative_position")),
            "label": draw.choice("AB"),
            "question_id": number,
        }
        lines.append(json.dumps(row) + "\n")
    (folder / "test_questions.jsonl").write_text("".join(lines))
    (folder / "depth.png").write_bytes(depth_maps.picture(scene(0)))


def ours(folder: Path, size: int) -> Work:
    """`sifthinker.evaluation.evaluate` with its defaults and a fresh ledger every time; the depth pictures are there."""
    from sifthinker.evaluation import evaluate

    benchmark = config.Benchmark(name="vstar", path=folder, images=folder)
    relief = (folder / "depth.png").read_bytes()
    url = _server()
    number = itertools.count()

    def work() -> dict[str, Any]:
        out = folder / f"out-{next(number)}"
        out.mkdir()
        evaluate.evaluate(
            contextlib.nullcontext(evaluate.Served(url, "slow", "ours", "digest-of-weights")),
            config.Model(),
            config.Evaluate(benchmarks=(benchmark,)),
            out / "ledger.sqlite",
            lambda images: ((sha256, relief) for sha256, _ in images),
            out,
        )
        found = tables.read(out / "predictions.parquet", ["id", "official", "answer"])
        return {row["id"].rpartition("/")[2]: [row["official"], row["answer"]] for row in found}

    return work


def rate(size: int) -> dict[str, float]:
    """Seconds and processor time of the evaluation of `size` questions, and its share of the ideal rate."""
    from sifthinker import llm

    sent: list[float] = []
    answered: list[float] = []

    class Watched(llm.Client):
        def submit(self, request: llm.Request) -> Any:
            sent.append(time.perf_counter())
            future = super().submit(request)
            future.add_done_callback(lambda _: answered.append(time.perf_counter()))
            return future

    client, llm.Client = llm.Client, Watched  # type: ignore[misc]
    try:
        with tempfile.TemporaryDirectory() as name:
            small, folder = Path(name) / "small", Path(name) / "whole"
            for made, questions in ((small, PART), (folder, size)):
                made.mkdir()
                prepare(made, questions)
            ours(small, PART)()  # what is imported on the way is imported
            work = ours(folder, size)
            sent.clear()
            answered.clear()
            began, process, thread = time.perf_counter(), time.process_time(), time.thread_time()
            work()
            seconds = time.perf_counter() - began
            process, thread = time.process_time() - process, time.thread_time() - thread
    finally:
        llm.Client = client  # type: ignore[misc]
    answered.sort()
    concurrency = config.Evaluate().concurrency
    ideal = math.ceil(size / concurrency) * LATENCY
    questions = answered[-1] - sent[0]
    low, high = size // 10, 9 * size // 10
    steady = (high - low) / (answered[high] - answered[low])
    return {
        "questions": size,
        "in flight": concurrency,
        "ideal seconds": ideal,
        "whole evaluation, seconds": round(seconds, 2),
        "its share of the ideal rate": round(ideal / seconds, 3),
        "before the first question, seconds": round(sent[0] - began, 2),
        "after the last reply, seconds": round(began + seconds - answered[-1], 2),
        "questions alone, seconds": round(questions, 2),
        "questions' share of the ideal rate": round(ideal / questions, 3),
        "steady share of the ideal rate": round(steady * LATENCY / concurrency, 3),
        "processor ms a question": round(1000 * process / size, 2),
        "of that the main thread": round(1000 * thread / size, 2),
    }


def one_at_a_time(folder: Path, size: int) -> Work:
    lines = (folder / "test_questions.jsonl").read_text().splitlines()[: max(1, size // PART)]
    relief = _url((folder / "depth.png").read_bytes(), "png")
    url = _server()

    def work() -> dict[str, Any]:
        answers = {}
        for line in lines:
            row = json.loads(line)
            photo = _url((folder / row["image"]).read_bytes(), "jpeg")
            messages = prompts.with_images(prompts.policy_messages(row["text"], True, True), [photo, relief])
            body = json.dumps({"model": "slow", "messages": messages, "max_tokens": 2048}).encode()
            request = urllib.request.Request(
                f"{url}/chat/completions", body, {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request) as response:
                text = json.load(response)["choices"][0]["message"]["content"]
            answer = text.partition("<answer>")[2].partition("</answer>")[0].strip()
            answers[str(row["question_id"])] = [float(answer == row["label"]), answer]
        return answers

    return work


def lmms_eval(folder: Path, size: int) -> Work:
    """lmms-eval 0.7.3 with its faster client and as many questions in flight, its imports not counted."""
    from tests.benchmarks import lmms, others

    lines = (folder / "test_questions.jsonl").read_text().splitlines()
    labels = {str(row["question_id"]): row["label"] for row in map(json.loads, lines)}
    task = lmms.task(folder, folder / "lmms-eval", 2048)
    together = config.Evaluate().concurrency
    harness = lmms.Harness(others.environment("lmms-eval"), task, _server(), "slow", together, "async_openai")

    def work() -> dict[str, Any]:
        answers = {}
        for row in harness.evaluate():
            answer = row["reply"].partition("<answer>")[2].partition("</answer>")[0].strip()
            answers[row["id"]] = [float(answer == labels[row["id"]]), answer]
        return answers

    return work


def same(ours: dict[str, Any], other: dict[str, Any]) -> None:
    """The questions that were asked one at a time have the same answers and scores."""
    assert other and {id: ours[id] for id in other} == other


def _url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _server() -> str:
    """Starts the slow server; it ends with this process."""
    here, there = multiprocessing.Pipe()
    multiprocessing.get_context("spawn").Process(target=_serve, args=(there,), daemon=True).start()
    there.close()  # so that a server that does not come up is an EOFError, not silence
    return f"http://127.0.0.1:{here.recv()}/v1"


def _serve(ready: Any) -> None:
    reply = json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "model": "slow",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": _REPLY}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 700, "completion_tokens": 60, "total_tokens": 760},
        }
    ).encode()  # fmt: skip
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(reply)}\r\n\r\n"

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                asked = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(asked.partition("content-length:")[2].partition("\r\n")[0] or 0)
                await reader.readexactly(length)
                await asyncio.sleep(LATENCY)
                writer.write(head.encode() + reply)
                await writer.drain()
        writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(connection, "127.0.0.1", 0, limit=2**22, backlog=1024)
        ready.send(server.sockets[0].getsockname()[1])
        async with server:
            await server.serve_forever()

    asyncio.run(serve())


PAIRS = [
    Pair(
        f"evaluation of 500 questions, {1000 * LATENCY:.0f} ms latency",
        f"one at a time (a {PART}th of them, times {PART})",
        40, 500, 10, "questions", prepare, ours, one_at_a_time, same, rounds=3, other_part=PART,
    ),
    Pair(
        f"evaluation of 500 questions, {1000 * LATENCY:.0f} ms latency, beside lmms-eval",
        "lmms-eval 0.7.3, async_openai, as many in flight",
        2, 500, 10, "questions", prepare, ours, lmms_eval, same, installs="lmms-eval", rounds=3,
    ),
]  # fmt: skip

if __name__ == "__main__":
    for size in sys.argv[1:] or ["500", "5000"]:
        for key, value in rate(int(size)).items():
            print(f"{key:38} {value:g}")
        print()
