"""Evaluation end to end, against a small server that really listens."""

import base64
import hashlib
import http.server
import io
import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
from PIL import Image

from sifthinker import config
from sifthinker.core import depth_maps, scores, tables
from sifthinker.core.errors import UserError
from sifthinker.evaluation import evaluate
from sifthinker.evaluation.benchmarks import BENCHMARKS

OPTIONS = "\n(A) red\n(B) blue\nAnswer with the option's letter from the given choices directly."
CHAIN = (
    '<think><area>[{{"bbox_2d": [0.1, 0.2, 0.6, 0.8], "depth": 0.5}}]</area><text>Here.</text></think>'
    "<answer>{answer}</answer>"
)


@contextmanager
def serving(answer):
    """A chat completions server; `answer(question text, request)` gives a reply, or (status, reply)."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(body)
            content = body["messages"][-1]["content"]
            said = answer(content if isinstance(content, str) else content[-1]["text"], body)
            status, text = said if isinstance(said, tuple) else (200, said)
            reply = {
                "model": "test",
                "choices": [{"message": {"content": text}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 7, "completion_tokens": 3},
            }
            data = json.dumps(reply if status == 200 else {"error": {"message": text}}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def png(colour) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def depth_pictures(pairs):
    """In another order than asked, as the depth stage may give them."""
    return reversed([(digest, png((int(digest[:2], 16), 0, 0))) for digest, _ in pairs])


def vstar(folder, rows=6, labels="AB"):
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(rows):
        (folder / f"{i // 2}.png").write_bytes(png((i // 2, 9, 9)))
        category = ("direct_attributes", "relative_position")[i % 2]
        text = f"What is thing {i}?{OPTIONS}"
        lines.append(
            {
                "image": f"{i // 2}.png",
                "text": text,
                "category": category,
                "label": labels[i % 2],
                "question_id": i,
            }
        )
    (folder / "test_questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return config.Benchmark(name="vstar", path=folder, images=folder)


def run(
    benchmarks, url, out, *, ledger=None, model=None, depth=depth_pictures, judge=None, work=None, **options
):
    out.mkdir(parents=True, exist_ok=True)
    return evaluate.evaluate(
        nullcontext(evaluate.Served(url, "served-model", "ours", "digest-of-weights")),
        model or config.Model(),
        config.Evaluate(benchmarks=benchmarks, concurrency=4, **options),
        ledger or out / "ledger.sqlite",
        depth,
        out,
        judge,
        work=work,
    )


def test_entries_that_share_a_question_are_refused_before_anything_is_asked(tmp_path):
    one, other = vstar(tmp_path / "one"), vstar(tmp_path / "other", rows=8)
    lines = (other.path / "test_questions.jsonl").read_text().splitlines(keepends=True)
    (other.path / "test_questions.jsonl").write_text("".join(lines[5:]))  # begins with another question
    with (
        serving(lambda text, _: CHAIN.format(answer="A")) as (url, requests),
        pytest.raises(
            UserError, match=r"hold a question relative_position/5: .*one and .*other\. .*leave one"
        ),
    ):
        run([one, other], url, tmp_path / "out")
    assert requests == []


def test_a_benchmark_is_asked_with_both_pictures_and_scored(tmp_path):
    source = vstar(tmp_path / "data")
    with serving(lambda text, _: CHAIN.format(answer="A")) as (url, requests):
        summary = run([source], url, tmp_path / "out")
    assert {s["metric"]: (s["strict"], s["official"], s["n"]) for s in summary["scores"]} == {
        "direct_attributes": (1.0, 1.0, 3),
        "relative_position": (0.0, 0.0, 3),
        "overall": (0.5, 0.5, 6),
    }
    assert summary == json.loads((tmp_path / "out" / "scores.json").read_text())
    body = next(r for r in requests if "thing 2?" in r["messages"][0]["content"][-1]["text"])
    first, rgb, second, depth, question = body["messages"][0]["content"]
    assert (first["text"], second["text"]) == ("Original image: ", "\nDepth image: ")
    original = (tmp_path / "data" / "1.png").read_bytes()
    assert base64.b64decode(rgb["image_url"]["url"].removeprefix("data:image/png;base64,")) == original
    shown = Image.open(io.BytesIO(base64.b64decode(depth["image_url"]["url"].split(",")[1])))
    assert shown.getpixel((0, 0))[0] == int(hashlib.sha256(original).hexdigest()[:2], 16)
    assert question["text"].startswith("\nWhat is thing 2?") and "<think>" in question["text"]
    assert (body["temperature"], body["max_tokens"]) == (0.0, 2048)
    assert len({r["seed"] for r in requests}) == 6  # each reply is sampled with random numbers of its own
    rows = list(tables.read(tmp_path / "out" / "predictions.parquet"))
    assert [row["id"] for row in rows] == [f"{row['group']}/{i}" for i, row in enumerate(rows)]
    assert rows[0]["answer"] == rows[0]["read_as"] == "A" and rows[0]["boxes"] == [[0.1, 0.2, 0.6, 0.8]]
    assert (rows[0]["prompt_tokens"], rows[0]["completion_tokens"]) == (7, 3)
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if "ledger" not in p.name) == [
        "predictions.parquet",
        "rejects.parquet",
        "scores.json",
        "shown.parquet",
    ]


def test_the_ablations_show_one_picture_and_ask_plainly(tmp_path):
    source = vstar(tmp_path / "data", rows=1)
    with serving(lambda text, _: "A") as (url, requests):
        summary = run(
            [source], url, tmp_path / "out", model=config.Model(depth_input=False), depth=None, think=False
        )
    (content,) = [message["content"] for message in requests[0]["messages"]]
    assert [part["type"] for part in content] == ["text", "image_url", "text"]
    assert content[-1]["text"] == f"\nWhat is thing 0?{OPTIONS}"
    assert summary["scores"][-1]["strict"] == 1.0


def test_a_whole_chain_is_scored_and_every_question_sampled_too(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(png((1, 2, 3)))
    row = {
        "question": "What?",
        "answer": "A",
        "image": "a.png",
        "width": 40,
        "height": 30,
        "bboxs": [[4, 6, 24, 24]],
    }
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({**row, "dataset": "gqa", "split": "val", "question_id": 1})
    )
    source = config.Benchmark(name="sif", path=tmp_path / "rows.jsonl", images=images)

    def depths(pairs):
        return [(digest, depth_maps.picture(np.full((30, 40), 0.5, dtype=np.float32))) for digest, _ in pairs]

    def answer(_, body):
        return CHAIN.format(answer="A") if body["temperature"] == 0 else "<think>?</think><answer>B</answer>"

    with serving(answer) as (url, requests):
        # The depth picture is not shown, and yet what is said of depth is scored.
        model = config.Model(depth_input=False)
        summary = run([source], url, tmp_path / "out", depth=depths, model=model, sampled=0.7)
    found = {(s["benchmark"], s["metric"]): s["strict"] for s in summary["scores"]}
    names = ("answer", "boxes", "depth", "format")
    assert found == {("sif", name): 1.0 for name in names} | {("sif sampled", name): 0.0 for name in names}
    assert [body["temperature"] for body in requests] == [0, 0.7]
    kept = list(tables.read(tmp_path / "out" / "predictions.parquet", ["benchmark", "parts"]))
    assert [row["benchmark"] for row in kept] == ["sif", "sif sampled"]
    assert dict(kept[0]["parts"]) == dict.fromkeys(names, 1.0)


def test_ground_truth_never_enters_a_request(tmp_path):
    bodies = []
    for name, labels in (("right", "AB"), ("garbage", "BA")):
        source = vstar(tmp_path / name, labels=labels)
        with serving(lambda text, _: CHAIN.format(answer="A")) as (url, requests):
            run([source], url, tmp_path / f"out-{name}")
        bodies.append(sorted(json.dumps(request, sort_keys=True) for request in requests))
    assert bodies[0] == bodies[1]


CHILD = """
import sys
from contextlib import nullcontext
from pathlib import Path
from sifthinker import config
from sifthinker.evaluation import evaluate
url, data, out, ledger = sys.argv[1:]
Path(out).mkdir()
source = config.Benchmark(name="vstar", path=Path(data), images=Path(data))
model, options = config.Model(depth_input=False), config.Evaluate(benchmarks=[source], concurrency=2)
served = evaluate.Served(url, "served-model", "ours", "digest-of-weights")
evaluate.evaluate(nullcontext(served), model, options, Path(ledger), None, Path(out))
"""


@pytest.mark.e2e
def test_a_killed_evaluation_asks_no_question_twice_and_gives_the_same_files(tmp_path):
    source = vstar(tmp_path / "data", rows=30)
    model = config.Model(depth_input=False)
    asked, halfway, killed, lock = [], threading.Event(), threading.Event(), threading.Lock()

    def answer(text, _):
        with lock:
            asked.append(text)
            late = len(asked) > 15 and not killed.is_set()
        if late:
            halfway.set()
            killed.wait(30)  # still under way when the kill comes
        return CHAIN.format(answer="B")

    with serving(answer) as (url, _):
        arguments = [url, str(tmp_path / "data"), str(tmp_path / "killed"), str(tmp_path / "ledger.sqlite")]
        child = subprocess.Popen([sys.executable, "-c", CHILD, *arguments])
        assert halfway.wait(60)
        time.sleep(0.3)  # what was answered is on disk a few milliseconds later
        child.kill()
        child.wait()
        killed.set()
        asked.clear()
        run([source], url, tmp_path / "continued", ledger=tmp_path / "ledger.sqlite", model=model, depth=None)
        assert len(asked) == 30 - 15  # what was under way is asked again, what was answered is not
        asked.clear()
        run([source], url, tmp_path / "again", ledger=tmp_path / "ledger.sqlite", model=model, depth=None)
        assert not asked, "a repeated evaluation asks nothing"
        run([source], url, tmp_path / "undisturbed", model=model, depth=None)
    for name in ("predictions.parquet", "rejects.parquet", "scores.json"):
        whole = (tmp_path / "undisturbed" / name).read_bytes()
        assert (
            (tmp_path / "continued" / name).read_bytes() == (tmp_path / "again" / name).read_bytes() == whole
        )


def test_the_depth_pictures_of_an_evaluation_that_failed_are_not_made_again(tmp_path):
    source, made = vstar(tmp_path / "data"), []

    def depth(pairs):
        for digest, picture in depth_pictures(pairs):
            made.append(digest)
            yield digest, picture
            if len(made) == 2:
                raise OSError("the GPU is gone")

    with serving(lambda *_: CHAIN.format(answer="B")) as (url, requests):
        with pytest.raises(OSError, match="the GPU is gone"):
            run([source], url, tmp_path / "out", depth=depth, work=tmp_path / "work")
        assert not requests
        run([source], url, tmp_path / "out", depth=depth, work=tmp_path / "work")
        assert len(made) == len(set(made)) == 3 and len(requests) == 6
    assert not list((tmp_path / "work").iterdir()), "a finished evaluation leaves none"


def test_entries_that_share_a_name_keep_their_own_replies_and_the_same_metric_is_of_both(tmp_path):
    """As files of two formats of `sif`; the second entry has no bad row, other ids and other pictures."""
    one, two = vstar(tmp_path / "one", rows=6), vstar(tmp_path / "two", rows=4)
    other = tmp_path / "two/test_questions.jsonl"
    other.write_text(other.read_text().replace('"question_id": ', '"question_id": 10'))
    file = tmp_path / "one/test_questions.jsonl"
    file.write_text("{}\n{}\n" + file.read_text())
    for number in range(2):
        (tmp_path / f"two/{number}.png").write_bytes(png((200, 9, 9)))
    with serving(lambda text, _: CHAIN.format(answer="A")) as (url, _):
        summary = run([one, two], url, tmp_path / "out", sampled=0.5)
    found = [(s["benchmark"], s["n"], s["rejected"]) for s in summary["scores"] if s["metric"] == "overall"]
    assert found == [("vstar", 10, 2), ("vstar sampled", 10, 2)]
    metrics = [(s["benchmark"], s["metric"]) for s in summary["scores"]]
    assert len(metrics) == len(set(metrics)), "pages and tests tell scores apart by these two"
    shown = list(tables.read(tmp_path / "out/shown.parquet", ["id", "picture"]))
    asked = [
        row["id"] for row in tables.read(tmp_path / "out/predictions.parquet") if row["benchmark"] == "vstar"
    ]
    reds = [Image.open(io.BytesIO(row["picture"])).convert("RGB").getpixel((0, 0))[0] > 100 for row in shown]
    assert [row["id"] for row in shown] == asked, "each reply once: three are right, and three are wrong"
    assert reds == [False] * 6 + [True] * 4, "on the pictures of their own entries"


@pytest.mark.parametrize(
    ("family", "max_pixels", "budget", "shrunk", "shrunk_to"),
    [
        ("qwen2_5_vl", 12_845_056, 12_845_056, 0.0, None),  # all pictures fit
        ("qwen2_5_vl", 3136, 3136, 1 / 3, 0.5),  # of three pictures, one has four times as many pixels
        ("internvl", 3136, 3136, None, None),  # in tiles
        ("llava", 3136, None, None, None),  # all at one size
    ],
)
def test_the_scores_say_how_much_of_the_pictures_the_model_sees(
    tmp_path, family, max_pixels, budget, shrunk, shrunk_to
):
    source = vstar(tmp_path / "data", rows=6)
    Image.new("RGB", (224, 56)).save(tmp_path / "data" / "0.png")
    with serving(lambda *_: CHAIN.format(answer="A")) as (url, _):
        model = config.Model(family=family, max_pixels=max_pixels)
        summary = run([source], url, tmp_path / "out", model=model)
    assert summary["max_pixels"] == budget
    found = scores.read_with_model(tmp_path / "out")[-1]
    assert (found["max_pixels"], found["shrunk"], found["shrunk_to"]) == (budget, shrunk, shrunk_to)


def test_a_limit_asks_so_many_and_is_marked(tmp_path):
    with serving(lambda text, _: CHAIN.format(answer="A")) as (url, requests):
        summary = run([vstar(tmp_path / "data", rows=20)], url, tmp_path / "out", limit=6)
    assert len(requests) == 6 and summary["limit"] == 6
    assert {s["metric"]: s["n"] for s in summary["scores"]} == {
        "direct_attributes": 3,
        "relative_position": 3,
        "overall": 6,
    }


def viscot(folder, rows):
    folder.mkdir()
    (folder / "1.png").write_bytes(png("red"))
    lines = []
    for n in range(rows):
        turns = [
            {"from": "human", "value": f"<image>\nWhat is {n}? Please provide the bounding box"},
            {"value": "a door"},
        ]
        lines.append({"dataset": "gqa", "question_id": n, "image": ["cot/1.png"], "conversations": turns})
    (folder / "gqa.json").write_text(json.dumps(lines))
    return config.Benchmark(name="viscot", path=folder, images=folder, split="gqa")


def test_every_registered_benchmark_says_where_its_files_are_published():
    assert all(benchmark.published.startswith("https://") for benchmark in BENCHMARKS.values())
