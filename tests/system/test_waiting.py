"""What waits for an endpoint can be ended, whatever the endpoint does; and loopback is reached without a proxy."""

from __future__ import annotations

import ctypes
import http.server
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from flows import server
from sifthinker import llm
from sifthinker.config import Api
from sifthinker.llm import judge
from sifthinker.system import loopback
from sifthinker.system.waiting import outcome
from tests import evil, machine
from tests.evil import chat
from tests.ledgers import counts


class Stop(BaseException):
    """As Prefect's TerminationSignal."""


def questions() -> Iterator[llm.Request]:
    return (judge.request("q", "a", f"answer {n}") for n in range(20))


ENDPOINTS: dict[str, evil.Answer | None] = {
    "asks for a pause": (429, {"Retry-After": "300"}, b""),
    "never answers": None,
    "stalls in the middle": (200, {"content-length": "9999"}, b'{"choices": '),
    "is overloaded": (503, {}, b""),
}


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_signal_ends_the_clients_of_all_threads(tmp_path: Path, endpoint: str) -> None:
    """As a run has them: the signal comes to the main thread, and the shards wait in others."""
    ended: list[BaseException] = []

    def shard(url: str) -> None:
        with llm.Client(api, tmp_path / "l", url) as client:
            try:
                client.ask_all(questions())
            except Exception as error:  # noqa: BLE001 - looked at below
                ended.append(error)

    api = Api(timeout=120, concurrency=4)
    with evil.serving(lambda *_: ENDPOINTS[endpoint]) as endless:
        threads = [threading.Thread(target=shard, args=(endless.url,), daemon=True) for _ in range(2)]
        with pytest.raises(Stop), llm.Client(api, tmp_path / "l", endless.url):
            for thread in threads:
                thread.start()
            machine.until(lambda: len(endless.asked) >= 2)
            began = time.monotonic()
            raise Stop
        for thread in threads:
            thread.join(20)
        assert time.monotonic() - began < 10
    assert len(ended) == 2
    assert all("interrupted" in str(error) for error in ended)
    assert not [thread for thread in threading.enumerate() if thread.name in ("vlm", "ledger_0")]


def test_what_arrives_soon_after_the_signal_is_kept(tmp_path: Path) -> None:
    def answer(*_: object) -> evil.Answer:
        time.sleep(1.5)
        return 200, {}, chat()

    with evil.serving(answer) as slow:
        api = Api(concurrency=4)
        with pytest.raises(Stop), llm.Client(api, tmp_path / "l", slow.url) as client:
            for question in questions():
                client.submit(question)
            machine.until(lambda: len(slow.asked) == 4)
            raise Stop
        with llm.Client(api, tmp_path / "l", slow.url) as client:
            assert counts(client.engine.ledger)["ok"] == 4
            assert client.engine.ledger.usage(client.engine.account).calls == 4


@pytest.mark.parametrize("way", ["a future", "answers"])
def test_an_exception_that_is_raised_in_a_waiting_thread_is_delivered(tmp_path: Path, way: str) -> None:
    ended = threading.Event()

    def wait(url: str) -> None:
        try:
            if way == "a future":
                outcome(Future())
            with llm.Client(Api(concurrency=2), tmp_path / "l", url) as client:
                client.ask_all(questions())
        except Stop:
            ended.set()

    with evil.serving(lambda *_: None) as silent:
        thread = threading.Thread(target=wait, args=(silent.url,), daemon=True)
        thread.start()
        time.sleep(1)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Stop))
        assert ended.wait(12)


def test_a_future_that_failed_with_a_timeout_says_so() -> None:
    future: Future[None] = Future()
    future.set_exception(TimeoutError("its own"))
    with pytest.raises(TimeoutError, match="its own"):
        outcome(future)


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A company's network: a proxy that reaches nothing of this machine."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "intranet.example")


@pytest.mark.usefixtures("proxied")
def test_an_endpoint_on_loopback_is_reached_without_the_proxy(tmp_path: Path) -> None:
    with (
        evil.serving(lambda *_: (200, {}, chat())) as near,
        llm.Client(Api(retries=0), tmp_path / "l", near.url) as client,
    ):
        assert isinstance(client.ask(next(questions())), llm.Reply)
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == ",".join(["intranet.example", *loopback.HOSTS])


@pytest.mark.usefixtures("proxied")
def test_a_prefect_server_on_loopback_is_found_without_the_proxy() -> None:
    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"true")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as prefect:
        threading.Thread(target=prefect.serve_forever, daemon=True).start()
        assert server.answers(f"http://127.0.0.1:{prefect.server_port}/api")
        prefect.shutdown()
