"""A server on loopback that answers one request of many in a way no server should."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

GOOD_USAGE = {"prompt_tokens": 10, "completion_tokens": 5}


def chat(
    content: object = "fine",
    usage: object = GOOD_USAGE,
    reason: object = "stop",
    model: object = "canned",
    **more: object,
) -> bytes:
    """A chat completion; every field may be anything."""
    choice = {
        "index": 0,
        "finish_reason": reason,
        "message": {"role": "assistant", "content": content},
        **more,
    }
    answer: dict[str, object] = {"model": model, "choices": [choice]}
    if usage is not None:
        answer["usage"] = usage
    return json.dumps(answer).encode()


Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Evil:
    """What it was asked."""

    url: str = ""
    asked: list[bytes] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving(
    answer: Callable[[int, bytes], Answer | None], context: ssl.SSLContext | None = None
) -> Iterator[Evil]:
    """`answer(number, body)` gives status, headers and body; None: never answers. With a `context` it speaks https."""
    state, over = Evil(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            with state.lock:
                number = len(state.asked)
                state.asked.append(body)
            given = answer(number, body)
            if given is None:
                over.wait(600)
                return
            status, headers, raw = given
            with suppress(OSError):  # whoever asked has hung up
                self.send_response(status)
                for name, value in {"content-length": str(len(raw)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)
                if headers.get("content-length", "").startswith("9999"):  # promises more than it sends
                    self.wfile.flush()
                    over.wait(600)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    state.url = f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}/v1"
    try:
        yield state
    finally:
        over.set()
        server.shutdown()
        server.server_close()
