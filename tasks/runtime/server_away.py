"""A Prefect server that is away: how long a run waits for it, and what it says then.

While a stage works, nothing waits: what people look at is left out (`tasks/runtime/ui_artifacts.py`), and the work goes on.
Before its next stage, and before its end, a run waits `WAIT` seconds for the server. Then it fails. What it has made is in
the store by then. The server hears of its end from the next run (`tasks/runtime/liveness.py`).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NoReturn, TypeVar

import httpx
from prefect.client.orchestration import get_client
from prefect.context import SettingsContext, get_settings_context
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, Settings

WAIT = 100.0  # seconds
EVERY = 2.0  # seconds between two looks
ANSWER = 10.0  # seconds that a server has for an answer
LEAVE = 15.0  # seconds that a worker's run has for its end
BY_WORKER = "PREFECT__FLOW_RUN_ID"  # in the environment of a run that a worker started, and cancels
CLOSED = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)  # a connection that was open before

Answer = TypeVar("Answer")

_given_up = ContextVar("given up", default=False)
_missed = threading.Event()
_known: tuple[Settings, Settings] | None = None  # settings, and the same without retries


class ServerAway(Exception):
    """The Prefect server does not answer. The message says where it should be, and what to do."""


@contextmanager
def at_once() -> Iterator[None]:
    """Within it a call to a server that is away fails at once. Prefect's client would try again and again."""
    context = get_settings_context()
    with SettingsContext(profile=context.profile, settings=_without_retries(context.settings)):
        yield


def told(tell: Callable[[], Answer]) -> Answer:
    """What a call gives, `at_once`. It is made once more where its connection was closed.

    A server closes a connection that was idle for a while (uvicorn after 5 s, unless it is told otherwise), and does not
    read what is sent at that moment. Prefect's client keeps one for 25 s, and a stage says how far it is every few seconds.

    Raises:
        httpx.HTTPError: the server is away.
    """
    with at_once():
        try:
            return tell()
        except CLOSED:
            return tell()


def _without_retries(settings: Settings) -> Settings:
    """The same settings for calls that are not tried again.

    They are kept: Prefect makes settings by reading its files and the environment anew, which takes longer than the call. Each
    shard says every few seconds how far it is; making them each time was most of the processor time of `annotate`.
    """
    global _known
    if _known is None or _known[0] is not settings:
        _known = (settings, settings.copy_with_update(updates={PREFECT_CLIENT_MAX_RETRIES: 0}))
    return _known[1]


def wait() -> None:
    """Returns when the Prefect server answers.

    Where it does not, what is left of the run does not wait for it again: neither the run that this one is part of, nor
    Prefect's engine, which tries several times to tell how a run ended, each time with all its retries.

    Raises:
        ServerAway: it has not answered for `WAIT` seconds.
    """
    began = time.monotonic()
    said = _given_up.get()
    while (wrong := _wrong()) is not None:
        if _given_up.get() or time.monotonic() - began >= WAIT:
            give_up()
            raise ServerAway(explained(wrong))
        note()
        if not said:
            get_run_logger().warning(
                "the Prefect server at %s does not answer: %s; the run waits for it, at most %.0f s",
                *(address(), wrong, WAIT),
            )
            said = True
        time.sleep(EVERY)


def stays_away() -> bool:
    """Whether the server does not answer, for as long as `wait` waits: for the end of a run that failed anyhow."""
    try:
        wait()
    except ServerAway:
        return True
    return False


def address() -> str:
    """Where the server should be."""
    return str(PREFECT_API_URL.value())


def explained(wrong: object) -> str:
    """What a run says of a server that does not answer.

    Args:
        wrong: what was met instead of an answer.
    """
    return (
        f"the Prefect server at {address()} does not answer: {wrong}. What the run has made is in the store. "
        "Start the server, and run again with the same command"
    )


def is_away(error: BaseException) -> bool:
    """Whether an error of Prefect's client means that the server could not be reached. Any other is a mistake of ours."""
    # Of an API out of reach Prefect's client raises a plain RuntimeError.
    return isinstance(error, httpx.HTTPError) or (
        isinstance(error, RuntimeError) and "reach API" in str(error)
    )


def note() -> None:
    """Remembers that the server was found away."""
    _missed.set()


def missed() -> bool:
    """Whether the server was found away in this process, so that it may not have heard of all that happened."""
    return _missed.is_set()


def leave() -> NoReturn:
    """Ends this process, which has failed. Prefect's threads would hold it, telling the server one event after another."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def give_up() -> None:
    """From now on every call of this run fails at once. The settings are entered and never left.

    A process that a worker started makes this run alone, and is ended. `sif` ends its own.
    """
    if _given_up.get():
        return
    _given_up.set(True)
    context = get_settings_context()
    SettingsContext(profile=context.profile, settings=_without_retries(context.settings)).__enter__()
    if BY_WORKER in os.environ:
        timer = threading.Timer(LEAVE, leave)
        timer.daemon = True
        timer.start()


def _wrong() -> str | None:
    """What is met instead of a healthy server; None where it is healthy."""
    with at_once(), get_client(httpx_settings={"timeout": ANSWER}, sync_client=True) as client:
        found = client.api_healthcheck()
    return None if found is None else f"{type(found).__name__}: {found}"
