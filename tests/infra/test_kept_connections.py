"""Connections that Prefect's client keeps open between two calls: who closes one, and what a call meets then."""

import json
import logging
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient

from flows import server
from tasks.runtime import server_away, ui_artifacts

ROOT = Path(__file__).resolve().parents[2]
KEEPALIVE = "PREFECT_SERVER_API_KEEPALIVE_TIMEOUT"


def test_every_server_that_we_start_keeps_a_connection_for_longer_than_its_clients() -> None:
    """Else a server closes one that a client is about to use: `ReadError: Connection reset by peer`, now and then."""
    composed = yaml.safe_load((ROOT / "infra/compose.yaml").read_text(encoding="utf-8"))
    [kubernetes] = [
        part["spec"]["template"]["spec"]["containers"][0]["env"]
        for part in yaml.safe_load_all(
            (ROOT / "infra/kubernetes/base/server.yaml").read_text(encoding="utf-8")
        )
        if part["kind"] == "Deployment"
    ]
    kept = [
        composed["services"]["server"]["environment"][KEEPALIVE],
        server._guarded("http://127.0.0.1:4200/api")[KEEPALIVE],
        *(one["value"] for one in kubernetes if one["name"] == KEEPALIVE),
    ]
    client = SyncPrefectClient("http://127.0.0.1:1/api")
    expiry = client._client._transport._pool._keepalive_expiry  # type: ignore[attr-defined]
    assert len(kept) == 3 and all(float(one) > expiry > 5 for one in kept), (kept, expiry)


class Closing:
    """Answers what comes, and closes a connection on the second thing that it is told, as a server that was about to close."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.told: list[str] = []
        self.closed = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:  # the test is over
                return
            with connection:
                while (first := connection.recv(1)) and not self._closes(connection):
                    self._answer(connection, first)

    def _closes(self, connection: socket.socket) -> bool:
        if len(self.told) != 1 or self.closed:
            return False
        self.closed += 1
        connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )  # the rest stays unread
        return True

    def _answer(self, connection: socket.socket, read: bytes) -> None:
        while b"\r\n\r\n" not in read:
            read += connection.recv(65536)
        head, _, body = read.partition(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        length = next((int(one.split(":")[1]) for one in lines if one.startswith("content-length")), 0)
        while len(body) < length:
            body += connection.recv(65536)
        self.told.append(json.loads(body)["description"])
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


@pytest.fixture
def closing() -> Iterator[Closing]:
    one = Closing()
    yield one
    one.listening.shutdown(socket.SHUT_RDWR)
    one.listening.close()


def test_what_is_said_on_a_connection_that_the_server_closes_is_said_again(closing: Closing) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{closing.listening.getsockname()[1]}") as client:
        for said in ("one", "two"):
            server_away.told(lambda said=said: client.patch("/", json={"description": said}))  # type: ignore[misc]
    assert closing.closed == 1
    assert closing.told == ["one", "two"]


def test_one_call_alone_meets_the_closed_connection(closing: Closing) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{closing.listening.getsockname()[1]}") as client:
        client.patch("/", json={"description": "one"})
        with pytest.raises(server_away.CLOSED):
            client.patch("/", json={"description": "two"})


def test_a_server_that_closes_again_and_again_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []

    def closed(text: str, key: str, description: str) -> None:
        tried.append(description)
        raise httpx.ReadError("reset")

    monkeypatch.setattr(ui_artifacts, "_quiet_until", 0.0)
    monkeypatch.setattr(ui_artifacts, "create_markdown_artifact", closed)
    with caplog.at_level(logging.WARNING):
        assert ui_artifacts.markdown("text", "key", "A summary") is None
    assert tried == ["A summary"] * 2
    assert "A summary: could not be shown" in caplog.text
