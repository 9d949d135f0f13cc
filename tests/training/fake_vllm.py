"""The part of vLLM's server protocol that TRL's client uses, without a model: every prompt gets the same completions."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

COMPLETION = [40, 41, 42]


class Vllm(ThreadingHTTPServer):
    """Keeps what it was asked, by path. `info` is what it says of its configuration; None: no development endpoints."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, Any]] = []
        self.info: dict[str, Any] | None = {
            "weight_transfer_config": {"backend": "nccl"},
            "model_config": {"logprobs_mode": "processed_logprobs"},
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def bodies(self, path: str) -> list[Any]:
        return [body for asked, body in self.asked if asked == path]


class Handler(BaseHTTPRequestHandler):
    server: Vllm

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/server_info" and self.server.info is None:
            self._answer(404, {})
            return
        replies = {
            "/health": {},
            "/v1/models": {"data": [{"id": "policy"}]},
            "/server_info": {"vllm_config": self.server.info},
        }
        self._answer(200, replies[path])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "null")
        self.server.asked.append((self.path, body))
        reply: dict[str, Any] = {}
        if self.path == "/v1/chat/completions/render":
            pictures = [part for part in body["messages"][0]["content"] if part["type"] == "image_url"]
            places = [{"offset": 7 * n, "length": 1} for n in range(len(pictures))]
            reply = {"features": {"mm_placeholders": {"image": places}, "mm_hashes": {"image": []}}}
        elif self.path == "/inference/v1/generate":
            # Told apart by their first token, or a group would have no spread.
            texts = [[50 + n, *COMPLETION] for n in range(body["sampling_params"]["n"])]
            reply = {"choices": [{"token_ids": ids, "logprobs": {"content": _content(ids)}} for ids in texts]}
        elif self.path == "/reset_prefix_cache":
            reply = {"success": True}
        self._answer(200, reply)

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def _content(ids: list[int]) -> list[dict[str, Any]]:
    return [{"token": f"token_id:{token}", "logprob": -1.0, "top_logprobs": []} for token in ids]
