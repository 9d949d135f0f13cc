"""A provider of batches for tests, which does what it is told and counts what it is asked."""

from __future__ import annotations

import http.server
import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from sifthinker import llm
from sifthinker.config import Api
from sifthinker.llm.ledger_sqlite import SqliteLedger
from tests.evil import GOOD_USAGE

FULL = {
    "code": "token_limit_exceeded",
    "message": "Enqueued token limit reached for m in organization org-x.",
}
API = Api(model="m", mode="batch", timeout=10.0, retries=1)


class Provider:
    """Has one batch in progress at a time, or `most`; one more fails, or is refused with a status."""

    def __init__(self, refusal: int = 0, most: int = 1) -> None:
        self.refusal, self.most = refusal, most
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
                self.out(*outer.got(self.path.split("/v1/")[1]))

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def got(self, name: str) -> tuple[object, int]:
        kind, _, rest = name.partition("/")
        if not rest:
            return {"data": list(self.batches.values()), "has_more": False}, 200
        found = self.files.get(rest.split("/")[0]) if kind == "files" else self.batches.get(rest)
        return ({"error": {"message": f"No such {kind}: {rest}"}}, 404) if found is None else (found, 200)

    def uploaded(self, body: bytes) -> tuple[dict[str, Any], int]:
        name = f"file-{self.uploads}"
        self.uploads += 1
        self.files[name] = b"\n".join(line for line in body.splitlines() if line.startswith(b'{"custom_id"'))
        return {"id": name}, 200

    def ordered(self, order: dict[str, Any]) -> tuple[dict[str, Any], int]:
        busy = self.most <= sum(made["status"] == "in_progress" for made in self.batches.values())
        self.refused += busy
        if busy and self.refusal:
            return {"error": FULL}, self.refusal
        name = f"batch-{len(self.batches)}"
        made = {**order, "id": name, "status": "failed" if busy else "in_progress"}
        self.batches[name] = made | ({"errors": {"data": [FULL]}} if busy else {})
        return self.batches[name], 200

    def finish(self, status: str = "completed", most: int | None = None) -> None:
        """Answers the batch that is in progress, or `most` of its requests."""
        (made,) = (made for made in self.batches.values() if made["status"] == "in_progress")
        lines = []
        for line in self.files[made["input_file_id"]].splitlines()[:most]:
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
        made["status"] = status

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def states(self) -> list[str]:
        return [made["status"] for made in self.batches.values()]


def request(number: int) -> llm.Request:
    return llm.Request([{"role": "user", "content": f"question {number}"}], 0.7, 100)


def opened(path: Path) -> dict[str, Any]:
    ledger = SqliteLedger(path)
    try:
        return ledger.open_batches(f"{API.base_url} {API.model}")
    finally:
        ledger.close()
