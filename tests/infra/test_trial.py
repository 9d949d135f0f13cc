"""A webhook answers a test message before alerts rely on it; one that refuses ends `make deploy`, and changes nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from prefect.blocks.webhook import Webhook

from infra import alerts, trial
from sifthinker.core.errors import UserError

SECRET = "not-a-real-address"


@dataclass
class Hook:
    """A webhook, what it got, and what it answers."""

    url: str = ""
    status: int = 200
    got: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    """With a proxy in the environment that nobody listens at: neither the test message nor an alert takes it."""
    one = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            one.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            said = f"Cannot POST {self.path}: no_service".encode()  # as some servers do: the address is in it
            self.send_response(one.status)
            self.send_header("Content-Length", str(len(said)))
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    one.url = f"http://127.0.0.1:{server.server_port}/services/{SECRET}"
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy", trial.VARIABLE, alerts.FORMAT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(alerts.URL, one.url)
    monkeypatch.setenv("PREFECT_UI_URL", "http://127.0.0.1:4200")
    yield one
    server.shutdown()
    server.server_close()


class Registered:
    """A server's block and automations, as `alerts.told` sees them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.webhook: Webhook | None = None
        self.automations: dict[str, Any] = {}
        monkeypatch.setattr(Webhook, "save", self.save)
        monkeypatch.setattr(Webhook, "load", self.load)

    def save(self, *_: Any, **__: Any) -> str:
        self.webhook = Webhook(url=alerts.os.environ[alerts.URL])
        return "00000000-0000-0000-0000-000000000001"

    def load(self, *_: Any, **__: Any) -> Webhook:
        if self.webhook is None:
            raise ValueError("no such block")
        return self.webhook

    def read_automations_by_name(self, name: str) -> list[Any]:
        return [self.automations[name]] if name in self.automations else []

    def register(self) -> list[str]:
        def keep(automation: Any) -> str:
            self.automations[automation.name] = automation
            return automation.name

        client: Any = self
        return list(alerts.told(client, ["prefect.deployment.1"], ["prefect.deployment.1"], keep))


@pytest.mark.parametrize("shape", ["json", "slack"])
def test_a_new_webhook_gets_a_test_message_that_says_so(
    hook: Hook, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(alerts.FORMAT, shape)
    said = Registered(monkeypatch).register()
    [got] = hook.got
    assert "test message" in got["text"] and "Nothing went wrong" in got["text"]
    assert set(got) == ({"text", "blocks"} if shape == "slack" else {*got, "outcome", "state", "url"})
    assert "alerts: the webhook answered a test message with 200" in said


@pytest.mark.parametrize("status", [302, 403, 404, 429, 500])
def test_a_webhook_that_refuses_ends_it_and_nothing_is_registered(
    hook: Hook, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.status = status
    server = Registered(monkeypatch)
    with pytest.raises(UserError, match=rf"{status} .*no_service.*SIF_ALERT_TEST=never") as refused:
        server.register()
    assert server.webhook is None and not server.automations
    assert SECRET not in str(refused.value)


def test_a_webhook_that_is_not_there_ends_it_without_its_address(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(alerts.URL, f"http://127.0.0.1:9/services/{SECRET}")
    with pytest.raises(UserError, match=r"was not reached \(ConnectError.*use no proxy") as refused:
        Registered(monkeypatch).register()
    assert SECRET not in str(refused.value)


def test_a_webhook_that_was_tested_is_not_sent_another_message_until_something_changes(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In compose, each start of a worker registers everything anew."""
    server = Registered(monkeypatch)
    server.register()
    hook.status = 500  # away for a moment: no reason that a worker should not start
    assert any("SIF_ALERT_TEST=always" in line for line in server.register())
    assert len(hook.got) == 1
    hook.status = 200
    monkeypatch.setenv(alerts.FORMAT, "slack")
    server.register()
    monkeypatch.setenv(alerts.URL, f"{hook.url}-2")
    server.register()
    monkeypatch.setenv(trial.VARIABLE, "always")
    server.register()
    assert len(hook.got) == 4


def test_the_test_message_can_be_left_out_and_what_is_misspelt_is_refused(
    hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook.status = 404
    monkeypatch.setenv(trial.VARIABLE, "never")
    assert any("no test message" in line for line in Registered(monkeypatch).register())
    assert not hook.got
    monkeypatch.setenv(trial.VARIABLE, "nver")
    with pytest.raises(UserError, match="SIF_ALERT_TEST: 'nver' is none of new, always, never"):
        Registered(monkeypatch).register()


def test_the_webhook_of_prefect_takes_no_proxy_and_no_redirect_as_the_test_message(hook: Hook) -> None:
    """Where Prefect changes this, the test message has to follow."""
    client = Webhook(url=hook.url)._client
    assert not client._mounts and not client.follow_redirects
    assert client.timeout.read == 5.0
    assert trial.send(hook.url, "{}") == 200
