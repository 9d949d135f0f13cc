"""Batches under a provider's real limits: a full queue is waited for, and nothing is uploaded or answered twice."""

from __future__ import annotations

import http.server
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sifthinker import llm
from sifthinker.config import Api
from sifthinker.llm import batch
from sifthinker.llm.ledger_sqlite import SqliteLedger
from tests.evil import GOOD_USAGE, until

FULL = {
    "code": "token_limit_exceeded",
    "message": "Enqueued token limit reached for m in organization org-x.",
}
API = Api(model="m", mode="batch", timeout=10.0, retries=1)


class Provider:
    """Has one batch in progress at a time; a second one fails, or is refused with a status."""

    def __init__(self, refusal: int = 0) -> None:
        self.refusal = refusal
        self.files: dict[str, bytes] = {}
        self.uploads = self.refused = 0
        self.batches: dict[str, dict[str, Any]] = {}
        self.answered: Counter[str] = Counter()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def out(self, answer: object, status: int = 200) -> None:
                raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                self.out(
                    *(
                        outer.uploaded(body)
                        if self.path.endswith("/files")
                        else outer.ordered(json.loads(body))
                    )
                )

            def do_GET(self) -> None:
                name = self.path.split("/v1/")[1]
                if name.startswith("files/"):
                    self.out(outer.files[name.split("/")[1]])
                elif name.startswith("batches/"):
                    self.out(outer.batches[name.split("/")[1]])
                else:
                    self.out({"data": list(outer.batches.values()), "has_more": False})

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def uploaded(self, body: bytes) -> tuple[dict[str, Any], int]:
        name = f"file-{self.uploads}"
        self.uploads += 1
        self.files[name] = b"\n".join(line for line in body.splitlines() if line.startswith(b'{"custom_id"'))
        return {"id": name}, 200

    def ordered(self, order: dict[str, Any]) -> tuple[dict[str, Any], int]:
        busy = any(made["status"] == "in_progress" for made in self.batches.values())
        self.refused += busy
        if busy and self.refusal:
            return {"error": FULL}, self.refusal
        name = f"batch-{len(self.batches)}"
        made = {**order, "id": name, "status": "failed" if busy else "in_progress"}
        self.batches[name] = made | ({"errors": {"data": [FULL]}} if busy else {})
        return self.batches[name], 200

    def finish(self) -> None:
        """Answers the batch that is in progress."""
        (made,) = (made for made in self.batches.values() if made["status"] == "in_progress")
        lines = []
        for line in self.files[made["input_file_id"]].splitlines():
            asked = json.loads(line)
            self.answered[asked["custom_id"]] += 1
            choice = {
                "message": {"content": asked["body"]["messages"][0]["content"]},
                "finish_reason": "stop",
            }
            body = {"choices": [choice], "usage": GOOD_USAGE}
            lines.append(
                json.dumps({"custom_id": asked["custom_id"], "response": {"status_code": 200, "body": body}})
            )
        self.files[f"out-{made['id']}"] = "\n".join(lines).encode()
        made |= {"output_file_id": f"out-{made['id']}"}
        made["status"] = "completed"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def states(self) -> list[str]:
        return [made["status"] for made in self.batches.values()]


@pytest.fixture(params=[0, 400, 429])
def provider(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setattr(batch, "QUIET", 0.05)
    monkeypatch.setattr(batch, "POLL", 0.02)
    monkeypatch.setattr(batch, "FULL", 0.3)
    made = Provider(request.param)
    yield made
    made.close()


def request(number: int) -> llm.Request:
    return llm.Request([{"role": "user", "content": f"question {number}"}], 0.7, 100)


def test_a_full_queue_is_waited_for_and_nothing_is_uploaded_twice(tmp_path, provider, caplog):
    with llm.Client(API, tmp_path / "calls.db", provider.url) as client:
        first = [client.submit(request(n)) for n in range(5)]
        until(lambda: provider.states() == ["in_progress"])
        second = [client.submit(request(n)) for n in range(5, 12)]
        until(lambda: provider.refused > 1)
        assert not any(future.done() for future in (*first, *second))
        provider.finish()
        until(lambda: provider.states()[-1] == "in_progress" and len(provider.batches) > 1)
        provider.finish()
        said = [future.result(20).text for future in (*first, *second)]
    assert said == [f"question {n}" for n in range(12)]
    assert provider.uploads == 2
    assert set(provider.answered.values()) == {1}
    assert len(provider.answered) == 12
    if not provider.refusal:
        assert re.search(r"queue of batches is full.*7 requests wait until a batch has ended", caplog.text)


def test_a_run_that_was_killed_while_it_waited_orders_from_the_file_that_is_there(tmp_path, provider):
    if provider.refusal:
        pytest.skip("there is no batch that failed")
    with llm.Client(API, tmp_path / "calls.db", provider.url) as client:
        futures = [client.submit(request(n)) for n in range(3)]
        until(lambda: provider.states() == ["in_progress"])
    provider.batches["batch-0"] |= {"status": "failed", "errors": {"data": [FULL]}}  # while nobody looked
    with llm.Client(API, tmp_path / "calls.db", provider.url) as client:
        futures = [client.submit(request(n)) for n in range(3)]
        until(lambda: provider.states() == ["failed", "in_progress"])
        provider.finish()
        assert [future.result(20).text for future in futures] == [f"question {n}" for n in range(3)]
    assert provider.uploads == 1
    assert opened(tmp_path / "calls.db") == {}


def test_an_order_whose_answer_was_lost_is_found_and_not_ordered_again(tmp_path, provider):
    order, lost = provider.ordered, []

    def lossy(given: dict[str, Any]) -> tuple[dict[str, Any], int]:
        made = order(given)
        if lost:
            return made
        lost.append(made)
        return {"error": {"message": "bad gateway"}}, 502

    provider.ordered = lossy  # type: ignore[method-assign]
    with llm.Client(API, tmp_path / "calls.db", provider.url) as client:
        future = client.submit(request(0))
        until(lambda: provider.states() == ["in_progress"])
        time.sleep(0.1)
        provider.finish()
        assert future.result(20).text == "question 0"
    assert (provider.uploads, len(provider.batches)) == (1, 1)


def opened(path: Path) -> dict[str, Any]:
    ledger = SqliteLedger(path)
    try:
        return ledger.open_batches(f"{API.base_url} {API.model}")
    finally:
        ledger.close()
