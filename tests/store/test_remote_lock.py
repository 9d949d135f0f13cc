"""A lock on S3 where answers of the server are lost: what was taken stays ours, and what is another's is not."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from sifthinker.core.errors import UserError
from sifthinker.store import remote_lock, s3
from tests.machine import until

HOP = ("transfer-encoding", "connection", "content-length")


class Losing(http.server.ThreadingHTTPServer):
    """Passes requests on to an S3 server. Of the next `loses` conditional writes the answer does not come back."""

    daemon_threads = True

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.server = urlsplit(server).netloc
        self.loses = 0
        self.written: list[int] = []  # the statuses of conditional writes, as the server gave them


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Losing

    def log_message(self, *_: object) -> None:
        pass

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        connection = http.client.HTTPConnection(self.server.server)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        data = answer.read()
        conditional = self.command == "PUT" and (
            self.headers.get("If-Match") or self.headers.get("If-None-Match")
        )
        if conditional:
            self.server.written.append(answer.status)
            if self.server.loses:
                self.server.loses -= 1
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
        self.send_response_only(answer.status)  # the other headers are the server's own
        for name, value in answer.getheaders():
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)) if self.command != "HEAD" else "0")
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_DELETE = do_HEAD = do_POST = _pass_on


@pytest.fixture
def losing(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Losing]:
    """Lies between every remote that is made from here on and the server."""
    server = Losing(os.environ["AWS_ENDPOINT_URL_S3"])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


def test_a_beat_whose_answer_is_lost_keeps_the_lock(
    losing: Losing, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_lock, "BEAT", 0.05)
    remote = s3.Remote(bucket)
    lock = remote.lock("s/k.lock")
    assert lock.take()
    losing.loses = 1
    until(lambda: 412 in losing.written)
    before = len(losing.written)
    until(lambda: len(losing.written) > before + 2)
    lock.check()
    assert set(losing.written[before:]) == {200}, "and goes on with the ETag of what the server took"
    lock.release()
    assert not remote.list("s"), "and it is given back"


def test_a_beat_that_never_had_an_answer_is_followed_by_another(
    losing: Losing, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_lock, "BEAT", 1000.0)
    lock = s3.Remote(bucket).lock("s/k.lock")
    assert lock.take()
    losing.loses = 1000  # all tries of botocore
    with pytest.raises(UserError):
        lock._renew()
    losing.loses = 0
    kept = lock._kept
    assert lock._renew() and lock._kept > kept
    lock.check()
    lock.release()
    assert not s3.Remote(bucket).list("s")


def test_a_lock_whose_taking_had_no_answer_is_ours_at_once(losing: Losing, bucket: str) -> None:
    remote = s3.Remote(bucket)
    lock = remote.lock("s/k.lock")
    losing.loses = 1
    assert lock.take() and losing.written == [200, 412]
    lock.check()
    assert not remote.lock("s/k.lock").take(), "and nobody else's"
    lock.release()
    assert not remote.list("s")


def test_a_lock_of_the_dead_whose_taking_over_had_no_answer_is_ours(
    losing: Losing, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = s3.Remote(bucket)
    remote.write("s/k.lock", json.dumps({"host": "h", "by": "", "id": "dead"}).encode())
    lock = remote.lock("s/k.lock")
    with monkeypatch.context() as patch:
        patch.setattr(remote_lock, "EXPIRY", -60.0)
        losing.loses = 1
        assert lock.take()
    lock.check()
    lock.release()


def test_a_lock_that_another_machine_has_taken_over_is_lost_although_an_answer_was_too(
    losing: Losing, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_lock, "BEAT", 1000.0)
    remote = s3.Remote(bucket)
    lock, other = remote.lock("s/k.lock"), remote.lock("s/k.lock")
    assert lock.take()
    with monkeypatch.context() as patch:
        patch.setattr(remote_lock, "EXPIRY", -60.0)
        assert other.take()
    losing.loses = 1
    assert not lock._renew()
    lock.release()
    assert "k.lock" in remote.list("s"), "it is its new holder's"
    other.release()


def test_a_server_that_is_away_ends_no_work_and_keeps_it_from_being_published(
    losing: Losing, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_lock, "BEAT", 1000.0)
    lock = s3.Remote(bucket).lock("s/k.lock")
    assert lock.take()
    lock._kept -= 2 * remote_lock.EXPIRY
    with monkeypatch.context() as patch:
        patch.setattr(s3.Remote, "write", lambda *_, **__: (_ for _ in ()).throw(UserError("it is away")))
        lock.check(strict=False)
        with pytest.raises(
            UserError, match=r"took no beat for 120 s, and now: it is away\. Nothing was published"
        ):
            lock.check()
    lock.check()
    assert losing.written == [200, 200], "it is back, and the lock was renewed before anything is published"
    lock.release()


def test_work_ends_where_the_first_beat_after_an_outage_finds_another_holder(
    losing: Losing, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = s3.Remote(bucket)
    lock, other = remote.lock("s/k.lock"), remote.lock("s/k.lock")
    monkeypatch.setattr(remote_lock, "BEAT", 0.05)
    away = threading.Event()
    away.set()
    renew = lock._renew

    def cut_off() -> bool:
        if away.is_set():
            raise UserError("it is away")
        return renew()

    monkeypatch.setattr(lock, "_renew", cut_off)
    assert lock.take()
    with monkeypatch.context() as patch:
        patch.setattr(remote_lock, "EXPIRY", -60.0)
        assert other.take()
        lock.check(strict=False)
    away.clear()
    thread = lock._thread
    assert thread
    thread.join(60)  # of the beats: they end with the lock
    with pytest.raises(UserError, match="lost its lock"):
        lock.check(strict=False)
    lock.release()
    other.release()


def test_a_server_that_is_away_when_a_lock_is_given_back_costs_nothing(
    losing: Losing, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = s3.Remote(bucket)
    lock = remote.lock("s/k.lock")
    assert lock.take()
    with monkeypatch.context() as patch:
        patch.setattr(s3.Remote, "look", lambda *_: (_ for _ in ()).throw(UserError("away")))
        lock.release()
    remote.delete("s/k.lock")


@pytest.mark.parametrize("how", ["take", "wait"])
def test_a_server_that_does_not_answer_when_a_lock_is_taken_is_explained(
    bucket: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"cannot look up: .*Check AWS_ENDPOINT_URL_S3"):
        getattr(s3.Remote(bucket).lock("s/k.lock"), how)()
