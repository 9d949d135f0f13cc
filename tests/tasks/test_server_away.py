"""How long a run waits for a Prefect server that is away. The whole way is in tests/faults."""

import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, Settings, temporary_settings

from tasks.runtime import server_away


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that only `sleep` moves on."""
    now = [0.0]
    monkeypatch.setattr(server_away.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(server_away.time, "sleep", lambda seconds: now.append(now.pop() + seconds))
    return now


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The warnings of a run."""
    lines: list[str] = []
    logger = type("", (), {"warning": lambda _, text, *values: lines.append(text % values)})()
    monkeypatch.setattr(server_away, "get_run_logger", lambda: logger)
    return lines


def aside(work: Callable[[], Any]) -> Any:
    """Does something whose settings must not stay behind in the tests' own context."""
    return contextvars.copy_context().run(work)


def test_a_server_that_comes_back_is_waited_for_and_told_of_once(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], said: list[str]
) -> None:
    answers: Iterator[str | None] = iter(["ConnectError: refused"] * 40 + [None])
    monkeypatch.setattr(server_away, "_wrong", lambda: next(answers))
    server_away.wait()
    assert clock[0] == 40 * server_away.EVERY < server_away.WAIT
    [line] = said
    assert "does not answer: ConnectError: refused; the run waits for it, at most 100 s" in line


def test_one_that_does_not_ends_the_run_and_is_not_waited_for_again(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], said: list[str]
) -> None:
    monkeypatch.setattr(server_away, "_wrong", lambda: "ConnectError: refused")

    def run() -> int:
        with pytest.raises(server_away.ServerAway, match=r"the Prefect server at .* does not answer: Conn"):
            server_away.wait()
        once = clock[0]
        assert server_away.stays_away() and clock[0] == once, "nor does the run that this one is part of"
        return int(PREFECT_CLIENT_MAX_RETRIES.value())

    monkeypatch.delenv(server_away.BY_WORKER, raising=False)
    before = PREFECT_CLIENT_MAX_RETRIES.value()
    assert aside(run) == 0, "what is left of the run tries once"
    assert PREFECT_CLIENT_MAX_RETRIES.value() == before
    assert server_away.WAIT <= clock[0] <= 120, "about two minutes, with the rest"
    assert aside(server_away.stays_away)


def test_the_process_of_a_workers_run_is_ended_too(
    monkeypatch: pytest.MonkeyPatch, clock: list[float], said: list[str]
) -> None:
    monkeypatch.setattr(server_away, "_wrong", lambda: "ConnectError: refused")
    monkeypatch.setenv(server_away.BY_WORKER, "a-run")
    monkeypatch.setattr(server_away, "LEAVE", 0.01)
    left = threading.Event()
    monkeypatch.setattr(server_away, "leave", left.set)
    assert aside(server_away.stays_away)
    assert left.wait(10)


def test_a_port_where_nothing_listens_is_found_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert "ConnectError" in str(server_away._wrong())


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (httpx.ConnectError("refused"), True),
        (httpx.ReadTimeout("slow"), True),
        (RuntimeError("Failed to reach API at http://127.0.0.1:1/api/"), True),
        (RuntimeError("no running event loop"), False),
        (ValueError("key"), False),
    ],
)
def test_errors_of_the_connection_are_told_from_mistakes_of_ours(error: Exception, away: bool) -> None:
    assert server_away.is_away(error) == away


def test_settings_without_retries_are_made_once_and_hold_as_long_as_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prefect reads its files for each copy of its settings, and shards show their progress every few seconds."""
    made = []
    copy = Settings.copy_with_update

    def counted(self: Settings, *args: Any, **kwargs: Any) -> Settings:
        made.append(self)
        return copy(self, *args, **kwargs)

    monkeypatch.setattr(server_away, "_known", None)
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 7, PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        monkeypatch.setattr(Settings, "copy_with_update", counted)
        for _ in range(3):
            with server_away.at_once():
                assert PREFECT_CLIENT_MAX_RETRIES.value() == 0
                assert PREFECT_API_URL.value() == "http://127.0.0.1:1/api"
            assert PREFECT_CLIENT_MAX_RETRIES.value() == 7
        assert len(made) == 1
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:2/api"}), server_away.at_once():
        assert PREFECT_API_URL.value() == "http://127.0.0.1:2/api", "other settings have a copy of their own"
        assert PREFECT_CLIENT_MAX_RETRIES.value() == 0
