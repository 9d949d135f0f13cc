"""A server that plays the Hugging Face hub: repositories of files, gated ones, and lines that break."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import unquote

COMMIT = "0f" * 20


@dataclass
class Hub:
    """What the server has, and what it was asked for."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)  # "datasets/a/b" or "a/b"
    gated: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)  # file: bytes after which the line breaks, once
    cut_for_good: set[str] = field(default_factory=set)  # files whose line breaks at once, every time
    announced: dict[str, int] = field(default_factory=dict)  # file: another size than it has
    asked: list[tuple[str, str]] = field(default_factory=list)  # path, its Range
    url: str = ""

    def ranges(self, name: str) -> list[str]:
        """The ranges that a file's content was asked for."""
        return [wanted for path, wanted in self.asked if path.endswith(f"/{name}")]


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(self.path.partition("?")[0])
        if found := re.match(
            r"/api/(datasets|models)/([^/]+/[^/]+)(?:/revision/([^/]+))?(/tree/.*)?/?$", path
        ):
            name = f"datasets/{found[2]}" if found[1] == "datasets" else found[2]
            return self._tree(name) if found[4] else self._api(name)
        if found := re.match(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)$", path):
            return self._file(found[1], found[3], body)
        return self._json(404, {"error": "not found"})

    def _api(self, name: str) -> None:
        if name not in self.hub.repositories:  # as the hub says to those who may not know
            return self._json(401, {"error": "Repository Not Found"}, {"X-Error-Code": "RepoNotFound"})
        files = self.hub.repositories[name]
        siblings = [
            {"rfilename": file, "size": self.hub.announced.get(file, len(data)), "blobId": _etag(data)}
            for file, data in files.items()
        ]
        found = {"id": name.removeprefix("datasets/"), "sha": COMMIT, "siblings": siblings, "private": False}
        found |= {
            "gated": "manual" if name in self.hub.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
        }
        return self._json(200, {**found, "tags": []})

    def _tree(self, name: str) -> None:
        files = self.hub.repositories.get(name, {})
        found = [
            {"type": "file", "path": file, "size": len(data), "oid": _etag(data)}
            for file, data in files.items()
        ]
        return self._json(200, found)

    def _file(self, name: str, file: str, body: bool) -> None:
        if name in self.hub.gated:
            return self._json(401, {"error": "Access is restricted"}, {"X-Error-Code": "GatedRepo"})
        data = self.hub.repositories.get(name, {}).get(file)
        if data is None:
            return self._json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        wanted = self.headers.get("Range", "")
        begin = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        if body:
            self.hub.asked.append((self.path, wanted))
        self.send_response(206 if wanted else 200)
        for header, value in {
            "ETag": f'"{_etag(data)}"',
            "X-Repo-Commit": COMMIT,
            "Content-Length": str(len(data) - begin),
            "Accept-Ranges": "bytes",
        }.items():
            self.send_header(header, value)
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return None
        if file in self.hub.cut_for_good:
            self.close_connection = True
            return None
        until = self.hub.cut.pop(file, len(data))
        self.wfile.write(data[begin:until])
        if until < len(data):
            self.close_connection = True
        return None

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for header, said in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(header, said)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


def _etag(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@contextmanager
def playing() -> Iterator[Hub]:
    """A hub of its own, while the block runs."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
