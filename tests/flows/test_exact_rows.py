"""`publish.rows` in whole runs: shards that run out of rows leave their share to others, and no row is paid twice."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from flows import form
from flows.reproduce import reproduce
from sifthinker.annotation import rounds
from sifthinker.config import Config
from sifthinker.core.tables import read
from sifthinker.llm.standin import replies
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Artifact, Ref
from sifthinker.store.runs import runs
from tests.dask_cluster import cluster
from tests.flows.test_end_to_end import SIF

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
ROWS, SHARDS = 24, 4


class Endpoint:
    """Writes the stand-in's chains, wrong ones to some questions, and counts what it is asked."""

    def __init__(self) -> None:
        self.wrong: set[str] = set()  # questions
        self.asked: Counter[str] = Counter()  # bodies
        self.hold: Callable[[int], None] = lambda number: None  # before the answer to the n-th request
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def answer(self, body: bytes) -> bytes:
        name = hashlib.sha256(body).digest()
        with self._lock:
            self.asked[name.hex()] += 1
            number = self.asked.total()
        self.hold(number)
        asked = json.loads(body)
        said = asked["messages"][1]["content"][0]["text"]
        fault = "wrong-depths" if any(question in said for question in self.wrong) else None
        return json.dumps(replies.reply(asked, name, fault)).encode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                said = endpoint.answer(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.close()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TallyQA file of `ROWS` rows, each with a picture and a question of its own."""
    folder = tmp_path_factory.mktemp("photographs")
    rows = []
    for number in range(ROWS):
        pixels = np.full((60, 80, 3), 10 * number, np.uint8)
        pixels[10:30, 10:30] = (200, 30, 30)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        question = {"question": f"How many in picture {number:02}?", "answer": 1, "question_id": number}
        rows.append({**question, "image": f"{number}.png", "bboxs": [[10, 10, 30, 30]]})
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder


def config(store: Path, photographs: Path, url: str, wanted: int | None, **more: Any) -> Config:
    """One call a row, so that a wrong reply is a rejected row."""
    source = {
        "name": "t",
        "format": "tallyqa",
        "path": str(photographs / "rows.json"),
        "images": str(photographs),
    }
    api = {"base_url": url, "model": "m", "concurrency": 2, **more.pop("api", {})}
    values = {
        "name": "exact",
        "store": str(store),
        "sources": [source],
        "ingest": {"shards": SHARDS, "total": ROWS},
        "depth": {"weights": "miniature", "size": 70},
        "model": {"weights": "tiny", "max_pixels": 50176},
        "annotate": {"api": api, "attempts": 1, "probe": False},
        "publish": {} if wanted is None else {"rows": wanted},
        "max_rejected": 0.9,
    }
    return Config.model_validate(values | more)


def run(settings: Config, stop_after: str = "annotate") -> Any:
    return reproduce(config=form.text(settings), stop_after=stop_after, return_state=True)


def latest(root: Path, label: str) -> Artifact:
    """The artifact of a stage of the store's latest run."""
    store = Store(root)
    return store.open(Ref(**runs(store)[0]["stages"][label]))


def parts(root: Path) -> list[list[str]]:
    """The questions of each shard."""
    return [[row["question"] for row in read([part])] for part in latest(root, "ingest").parts("samples")]


def shards_made(root: Path) -> int:
    return len(list(root.glob("annotate.parts/*/manifest.json")))


@pytest.fixture
def drawn(prefect_server: str, tmp_path: Path, photographs: Path, endpoint: Endpoint) -> list[list[str]]:
    """The questions of each shard, the largest one first; the run's data stages before annotate are made."""
    state = run(config(tmp_path / "first", photographs, endpoint.url, 12), "expand")
    assert state.is_completed(), state.message
    return sorted(parts(tmp_path / "first"), key=len, reverse=True)


def test_a_shard_that_rejects_everything_leaves_its_share_to_the_others(
    tmp_path: Path, photographs: Path, endpoint: Endpoint, drawn: list[list[str]]
) -> None:
    endpoint.wrong = set(drawn[0])
    root = tmp_path / "first"
    state = run(config(root, photographs, endpoint.url, 12), "publish")
    assert state.is_completed(), state.message
    rows = latest(root, "annotate").manifest["rows"]
    assert rows["kept"] == 12 and rows["in"] == ROWS
    assert latest(root, "publish").manifest["rows"]["kept"] == 12
    assert shards_made(root) > SHARDS, "there was a further round"
    notes = latest(root, "annotate").manifest["notes"]
    assert notes["rows_wanted"].startswith("publish.rows: 12 chains are accepted")
    asked = ROWS - rows["rejected"]["not-needed"]
    assert endpoint.asked.total() == len(endpoint.asked) == asked == notes["calls"]
    assert asked == 12 + len(drawn[0]), "no row is asked that is not needed"

    # Another machine, one call at a time and slowly: the replies come in another order.
    endpoint.asked.clear()
    endpoint.hold = lambda number: time.sleep(0.05 * (number % 3))
    state = run(config(tmp_path / "other", photographs, endpoint.url, 12, api={"concurrency": 7}))
    assert state.is_completed(), state.message
    first, other = (latest(at, "annotate") for at in (root, tmp_path / "other"))
    assert first.ref.digest == other.ref.digest
    assert [shard.ref for shard in first.shards.values()] == [shard.ref for shard in other.shards.values()]
    assert endpoint.asked.total() == asked

    # The same again: nothing is asked, and nothing is made.
    endpoint.asked.clear()
    assert run(config(root, photographs, endpoint.url, 12)).is_completed()
    assert not endpoint.asked


def test_the_probe_asks_no_row_that_is_not_needed(
    tmp_path: Path, photographs: Path, endpoint: Endpoint, drawn: list[list[str]]
) -> None:
    settings = config(tmp_path / "first", photographs, endpoint.url, 1)
    annotate = settings.annotate.model_copy(update={"probe": True})
    assert run(settings.model_copy(update={"annotate": annotate})).is_completed()
    of = [len(part) for part in parts(tmp_path / "first")]
    assert of[0] < max(of), "the first part has no share of one chain"
    assert endpoint.asked.total() == 1 == latest(tmp_path / "first", "annotate").manifest["rows"]["kept"]


def test_a_number_that_all_rows_do_not_have_ends_with_what_there_is(
    tmp_path: Path,
    photographs: Path,
    endpoint: Endpoint,
    drawn: list[list[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    endpoint.wrong = {question for part in drawn[:2] for question in part[1:]}
    there_are = ROWS - len(endpoint.wrong)
    root = tmp_path / "first"
    state = run(config(root, photographs, endpoint.url, there_are + 1))
    assert state.is_completed(), state.message
    rows = latest(root, "annotate").manifest["rows"]
    assert rows == {"in": ROWS, "kept": there_are, "rejected": {"depths": len(endpoint.wrong)}}
    said = latest(root, "annotate").manifest["notes"]["rows_wanted"]
    assert said == (
        f"publish.rows: {there_are} of {there_are + 1} chains: all {ROWS} rows of the draw are used up; set ingest.total "
        "higher to draw more"
    )
    assert endpoint.asked.total() == len(endpoint.asked) == ROWS


def test_a_store_with_too_few_chains_of_an_earlier_version_gets_the_rest_and_one_with_all_stays(
    tmp_path: Path,
    photographs: Path,
    endpoint: Endpoint,
    drawn: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "first"
    settings = config(root, photographs, endpoint.url, 12)
    with monkeypatch.context() as earlier:
        earlier.setattr(rounds, "further", lambda wanted, parts: {})
        assert run(settings).is_completed()
        whole = latest(root, "annotate")
        assert whole.manifest["rows"]["kept"] == 12 and shards_made(root) == SHARDS
    assert run(settings).is_completed()
    assert latest(root, "annotate").ref == whole.ref and shards_made(root) == SHARDS

    endpoint.wrong = set(drawn[0])
    endpoint.asked.clear()
    root = tmp_path / "other"
    settings = config(root, photographs, endpoint.url, 12)
    with monkeypatch.context() as earlier:
        earlier.setattr(rounds, "further", lambda wanted, parts: {})
        assert run(settings).is_completed()
        short = latest(root, "annotate")
        assert short.manifest["rows"]["kept"] < 12
    before = endpoint.asked.total()
    assert run(settings).is_completed()
    longer = latest(root, "annotate")
    assert longer.manifest["rows"]["kept"] == 12 and longer.ref.key == short.ref.key
    missing = 12 - short.manifest["rows"]["kept"]
    assert endpoint.asked.total() == len(endpoint.asked), "no row is asked twice"
    assert endpoint.asked.total() - before == missing


def test_a_budget_that_is_spent_in_a_further_round_ends_the_run_and_a_larger_one_goes_on(
    tmp_path: Path, photographs: Path, endpoint: Endpoint, drawn: list[list[str]]
) -> None:
    endpoint.wrong = set(drawn[0])
    root = tmp_path / "first"
    state = run(config(root, photographs, endpoint.url, 12, api={"concurrency": 1, "budget_tokens": 1}))
    assert state.is_failed() and "budget_tokens" in str(state.message)
    assert endpoint.asked.total() <= 1

    # What the first round takes, and one row more.
    state = run(config(tmp_path / "whole", photographs, endpoint.url, 12, api={"concurrency": 1}))
    assert state.is_completed(), state.message
    whole = latest(tmp_path / "whole", "annotate")
    tokens = (
        whole.manifest["notes"]["prompt_tokens_bought"] + whole.manifest["notes"]["completion_tokens_bought"]
    )
    each = tokens / whole.manifest["notes"]["calls"]
    endpoint.asked.clear()
    tight = {"concurrency": 1, "budget_tokens": round(tokens - 1.5 * each)}
    root = tmp_path / "tight"
    state = run(config(root, photographs, endpoint.url, 12, api=tight))
    assert state.is_failed() and "budget_tokens" in str(state.message), state.message
    assert shards_made(root) >= SHARDS, "the first round was made"
    state = run(config(root, photographs, endpoint.url, 12, api={"concurrency": 1}))
    assert state.is_completed(), state.message
    assert latest(root, "annotate").ref.digest == whole.ref.digest
    assert endpoint.asked.total() == len(endpoint.asked) == whole.manifest["notes"]["calls"]


def test_a_run_that_is_killed_in_a_further_round_goes_on_there(
    tmp_path: Path, photographs: Path, endpoint: Endpoint, drawn: list[list[str]]
) -> None:
    endpoint.wrong = set(drawn[0])
    undisturbed = tmp_path / "first"
    assert run(config(undisturbed, photographs, endpoint.url, 12)).is_completed()
    calls = endpoint.asked.total()
    endpoint.asked.clear()

    root = tmp_path / "killed"
    settings = config(root, photographs, endpoint.url, 12, api={"concurrency": 1})
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(json.loads(settings.model_dump_json(exclude_unset=True))))
    command = [SIF, "run", "--config", str(file), "--stop-after", "annotate"]
    last = threading.Event()
    endpoint.hold = lambda number: last.set() or time.sleep(600) if number == calls else None  # type: ignore[func-returns-value]
    started = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert last.wait(600), "the last row, which a further round asks, is in flight"
        assert shards_made(root) >= SHARDS, "the first round was made"
    finally:
        started.send_signal(signal.SIGKILL)
        started.wait(60)
    endpoint.hold = lambda number: None
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert latest(root, "annotate").ref.digest == latest(undisturbed, "annotate").ref.digest
    assert len(endpoint.asked) == calls
    # Two parts go on. One's request was in flight; the other's may have been answered that moment, and not yet be recorded.
    assert calls < endpoint.asked.total() <= calls + 2, "what was in flight at the kill, and no more"


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_shards_of_a_further_round_go_to_the_dask_cluster_and_are_those_of_one_process(
    tmp_path: Path,
    photographs: Path,
    endpoint: Endpoint,
    drawn: list[list[str]],
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    distributed = pytest.importorskip("distributed", reason="the `dask` extra is not installed")
    endpoint.wrong = set(drawn[0])
    assert run(config(tmp_path / "first", photographs, endpoint.url, 12)).is_completed()
    calls = endpoint.asked.total()
    endpoint.asked.clear()
    monkeypatch.setenv("SIF_LEDGER", database)
    with cluster(tmp_path) as dask:
        for name in ("worker-1", "worker-2"):
            dask.worker(name)
        with distributed.Client(dask.address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=120)
            client.get_task_stream()  # from here on the scheduler remembers
            state = run(config(tmp_path / "there", photographs, endpoint.url, 12, dask=dask.address))
            assert state.is_completed(), state.message
            sent = [str(record["key"]) for record in client.get_task_stream()]
    first, there = (latest(tmp_path / at, "annotate") for at in ("first", "there"))
    assert first.ref.digest == there.ref.digest
    assert endpoint.asked.total() == len(endpoint.asked) == calls
    assert shards_made(tmp_path / "there") == shards_made(tmp_path / "first") > SHARDS
    assert len(sent) == 2 * SHARDS + shards_made(tmp_path / "there"), (
        "expand, depth, and all rounds of annotate"
    )
    assert there.manifest["notes"]["calls"] == calls
