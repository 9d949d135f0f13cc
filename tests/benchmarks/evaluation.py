"""Evaluation of V*Bench questions through a server with 200 ms latency, against asking one at a time.

The server answers every question alike, from a process of its own. One at a time is the authors' way (a loop around
the official client's call); it asks a tenth of the questions and its time is taken ten times.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import multiprocessing
import random
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image

from sifthinker import config, depth, prompts, sample
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
    (folder / "depth.png").write_bytes(depth.picture(scene(0)))


def ours(folder: Path, size: int) -> Work:
    """`sifthinker.evaluate` with its defaults and a fresh ledger every time; the depth pictures are there."""
    from sifthinker import evaluate

    benchmark = config.Benchmark(name="vstar", path=folder, images=folder)
    relief = (folder / "depth.png").read_bytes()
    url = _server()
    number = itertools.count()

    def work() -> dict[str, Any]:
        out = folder / f"out-{next(number)}"
        out.mkdir()
        evaluate.evaluate(
            [benchmark],
            url,
            "slow",
            "ours",
            "digest-of-weights",
            out / "ledger.sqlite",
            lambda images: ((sha256, relief) for sha256, _ in images),
            config.Model(),
            config.Evaluate(),
            out,
        )
        found = sample.read(out / "predictions.parquet", ["id", "official", "answer"])
        return {row["id"].rpartition("/")[2]: [row["official"], row["answer"]] for row in found}

    return work


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
    )
]  # fmt: skip
