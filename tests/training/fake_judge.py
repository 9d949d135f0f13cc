"""A judge of a few lines that really listens."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SCORES = {"red": 1.0, "green": 0.6, "blue": 0.3, "yellow": 0.1}


class Judge(ThreadingHTTPServer):
    """Scores an answer by its colour; with `broken` it answers no score.

    The next calls fail with the statuses in `troubles`, and each one about the answer `fails_on` with 500.
    """

    broken = False
    fails_on = ""
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.troubles: list[int] = []


class Handler(BaseHTTPRequestHandler):
    server: Judge

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        text = body["messages"][1]["content"][-1]["text"]
        answer = text.splitlines()[-2]
        if trouble := self.server.troubles.pop(0) if self.server.troubles else 0:
            return self.fail(trouble)
        if self.server.fails_on == answer:
            return self.fail(500)
        reply = (
            "I would rather not say" if self.server.broken else json.dumps({"score": SCORES.get(answer, 0.0)})
        )
        message = {"role": "assistant", "content": reply}
        content = {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "fake",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def fail(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass
