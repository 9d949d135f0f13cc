"""A stand-in of the Hugging Face hub's API, as far as an upload goes: it keeps what it is sent, and can fail."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

TOKEN = "hf_a_token_of_the_tests"


@dataclass
class Hub:
    """What the hub has, and how it behaves."""

    url: str = ""
    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)  # by name: private, files
    objects: dict[str, bytes] = field(default_factory=dict)  # large files by their sha256
    uploads: list[str] = field(default_factory=list)  # sha256 of each large file that was sent
    requests: list[str] = field(default_factory=list)
    breaks_after: int | None = None  # large files that arrive before the connection is cut
    refuses: int | None = None  # status of every answer


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _body(self) -> bytes:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _answer(self, status: int, value: Any = None, **headers: str) -> None:
            data = b"" if value is None else json.dumps(value).encode()
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name.replace("_", "-"), text)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def _any(self) -> None:
            path, body = urlsplit(self.path).path, self._body()
            hub.requests.append(f"{self.command} {path}")
            if hub.refuses:
                return self._answer(hub.refuses, {"error": "not for this token"})
            if path.startswith("/put/"):
                return self._take(path.rpartition("/")[2], body)
            if self.headers.get("Authorization") != f"Bearer {TOKEN}" and path != "/api/validate-yaml":
                return self._answer(401, {"error": "no token"})
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = (
                    f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                )
                private = asked.get("private") or asked.get("visibility") == "private"
                hub.repositories[name] = {"private": bool(private), "files": {}}
                return self._answer(200, {"url": f"{hub.url}/datasets/{name}"})
            if path == "/api/validate-yaml":
                return self._answer(200, {"errors": [], "warnings": []})
            if path.endswith(".git/info/lfs/objects/batch"):
                return self._answer(
                    200, {"transfer": "basic", "objects": [_lfs(o) for o in json.loads(body)["objects"]]}
                )
            return self._of_repository(path, body)

        def _take(self, sha: str, body: bytes) -> None:
            if hub.breaks_after is not None and len(hub.objects) >= hub.breaks_after:
                self.close_connection = True
                self.connection.close()
                return
            hub.objects[sha] = body
            hub.uploads.append(sha)
            self._answer(200, {})

        def _of_repository(self, path: str, body: bytes) -> None:
            _, _, rest = path.partition("/api/datasets/")
            name, rest = "/".join(rest.split("/")[:2]), rest.split("/")[2:]
            found = hub.repositories.get(name)
            if found is None:
                return self._answer(404, {"error": "no such repository"}, X_Error_Code="RepoNotFound")
            if rest[:1] == ["preupload"]:
                files = [
                    {
                        "path": each["path"],
                        "uploadMode": "lfs" if each["path"].endswith(".parquet") else "regular",
                        "shouldIgnore": False,
                        "oid": None,
                    }
                    for each in json.loads(body)["files"]
                ]
                return self._answer(200, {"files": files})
            if rest[:1] == ["commit"]:
                for line in map(json.loads, body.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        found["files"][value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        found["files"][value["path"]] = hub.objects[value["oid"]]
                url = f"{hub.url}/datasets/{name}/commit/{'0' * 40}"
                return self._answer(200, {"success": True, "commitUrl": url, "commitOid": "0" * 40})
            return self._answer(
                200, {"id": name, "private": found["private"], "sha": "0" * 40, "siblings": [], "tags": []}
            )

        do_GET = do_HEAD = do_POST = do_PUT = _any

    def _lfs(asked: dict[str, Any]) -> dict[str, Any]:
        there = asked["oid"] in hub.objects
        return {
            **asked,
            **(
                {}
                if there
                else {"actions": {"upload": {"href": f"{hub.url}/put/{asked['oid']}", "header": {}}}}
            ),
        }

    return Handler


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on loopback."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
