"""The Prefect server that a run starts: who may drive it, and what its address may be."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from flows import server
from sifthinker.core.errors import UserError
from sifthinker.system.processes import end
from tests.machine import free_port

CREDENTIALS = server._credentials


def asked(url: str, headers: dict[str, str], method: str = "GET") -> tuple[int, dict[str, str]]:
    body = b"{}" if method == "POST" else None
    request = urllib.request.Request(
        url, body, {"content-type": "application/json", **headers}, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, {name.lower(): value for name, value in response.headers.items()}
    except urllib.error.HTTPError as error:
        return error.code, {name.lower(): value for name, value in error.headers.items()}


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:43096"])
def test_a_page_of_another_origin_can_neither_read_runs_nor_start_one(prefect_server, origin):
    url = f"{prefect_server}/deployments/filter"
    preflight = {"origin": origin, "access-control-request-method": "POST"}
    _, headers = asked(url, {**preflight, "access-control-request-headers": "content-type"}, "OPTIONS")
    assert headers.get("access-control-allow-origin") is None
    status, headers = asked(url, {"origin": origin}, "POST")
    assert status == 403  # no CSRF token
    assert headers.get("access-control-allow-origin") is None


def test_the_servers_own_page_may(prefect_server):
    ui = prefect_server.removesuffix("/api")
    for origin in (ui, ui.replace("127.0.0.1", "localhost")):
        _, headers = asked(f"{prefect_server}/health", {"origin": origin})
        assert headers["access-control-allow-origin"] == origin


@pytest.fixture
def babbler() -> Iterator[str]:
    """Something that listens and is no HTTP server."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def babble() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        threading.Thread(target=babble, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/api"


def test_what_answers_something_else_is_no_server(babbler):
    assert not server.answers(babbler)


@pytest.mark.parametrize("api", ["notaurl", "http://[::1"])
def test_an_address_that_is_none_is_explained(api):
    with pytest.raises(UserError, match=r"PREFECT_API_URL: .* is no address of a server"):
        server.answers(api)


@pytest.mark.parametrize(
    ("api", "says"),
    [
        ("127.0.0.1:4200/api", "is no address of a server; write http://host:port/api"),
        ("http://[::1", "is no address of a server: "),
        ("http://h:x/api", "is no address of a server: "),
        ("http://127.0.0.1:4200", "lacks /api; write http://127.0.0.1:4200/api"),
        ("https://prefect.example/", "lacks /api; write https://prefect.example/api"),
    ],
)
def test_an_address_of_no_api_is_refused_at_once(tmp_path, monkeypatch, api, says):
    monkeypatch.setattr(os, "environ", {"PREFECT_API_URL": api})
    with pytest.raises(UserError, match="PREFECT_API_URL: ") as told:
        server.settings(tmp_path)
    assert says in str(told.value)


def test_a_slash_at_its_end_is_left_out(tmp_path, monkeypatch):
    cloud = "https://api.prefect.cloud/api/accounts/a/workspaces/w"
    for api, meant in (("http://127.0.0.1:4200/api/", "http://127.0.0.1:4200/api"), (cloud, cloud)):
        monkeypatch.setattr(os, "environ", {"PREFECT_API_URL": api})
        server.settings(tmp_path)
        assert os.environ["PREFECT_API_URL"] == meant


@pytest.fixture
def guarded() -> Iterator[str]:
    """Answers as a Prefect server with a password: everybody may know that it is healthy."""

    class Guarded(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["authorization"] == "Basic b3BzOnNlY3JldA=="  # ops:secret
            self.send_response(200 if known or self.path == "/api/health" else 401)
            self.end_headers()
            self.wfile.write(b"true")

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}/api"
        listening.shutdown()


@pytest.mark.parametrize("said", ["", "ops:wrong"])
def test_a_server_that_wants_a_password_is_told_from_one_that_is_away(guarded, monkeypatch, said):
    monkeypatch.setattr(server, "_credentials", lambda: _basic(said))
    with pytest.raises(UserError, match="refuses this machine: set PREFECT_API_AUTH_STRING") as told:
        server.admits(guarded)
    assert "wrong" not in str(told.value)
    monkeypatch.setattr(server, "_credentials", lambda: _basic("ops:secret"))
    assert server.admits(guarded)


def _basic(said: str) -> dict[str, str]:
    from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings

    with temporary_settings({PREFECT_API_AUTH_STRING: said} if said else {}):
        return CREDENTIALS()


def test_an_empty_variable_is_one_that_is_not_set(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {"PREFECT_API_URL": ""})
    server.settings(tmp_path)
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "prefect")


@pytest.mark.e2e
def test_commands_that_begin_at_once_share_the_server_that_one_of_them_starts(tmp_path):
    """Two of one store, and one of another, whose server finds the port taken once it has come up."""
    api = f"http://127.0.0.1:{free_port()}/api"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    line = "import sys; from pathlib import Path; from flows import server; server.settings(Path(sys.argv[1])); print(server.ensure())"
    stores = ("one", "one", "other")
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", line, str(tmp_path / store)],
            env={**inherited, "PREFECT_API_URL": api},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for store in stores
    ]
    said = [process.communicate(timeout=240) for process in begun]
    left = [int(file.read_text()) for file in tmp_path.glob("*/prefect/server.pid")]
    for pid in left:
        end(pid)
    assert [process.returncode for process in begun] == [0, 0, 0], said
    assert {out for out, _ in said} == {f"{api.removesuffix('/api')}\n"}
    assert len(left) == 1, "the one that `make stop` ends"


def test_a_port_that_something_else_has_is_explained(tmp_path, monkeypatch, babbler):
    monkeypatch.setattr(os, "environ", {**os.environ, "PREFECT_API_URL": babbler})
    monkeypatch.setattr(server, "START", 1.0)
    monkeypatch.setattr(server, "_guarded", lambda _: {"PATH": os.environ["PATH"]})
    monkeypatch.setattr(
        sys, "executable", "/bin/false"
    )  # as Prefect's command, which ends where the port is taken
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    server.settings(tmp_path)
    with pytest.raises(UserError, match="something else listens there: choose another port"):
        server.ensure()
