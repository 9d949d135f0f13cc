"""The Prefect server that a run starts: who may drive it, and what its address may be."""

from __future__ import annotations

import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from flows import server
from sifthinker.core.errors import UserError


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


def test_an_empty_variable_is_one_that_is_not_set(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {"PREFECT_API_URL": ""})
    server.settings(tmp_path)
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "prefect")
