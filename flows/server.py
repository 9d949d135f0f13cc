"""A Prefect server on loopback, started when none answers."""

from __future__ import annotations

import base64
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from filelock import FileLock, Timeout

from sifthinker.core.errors import UserError
from sifthinker.system import loopback
from sifthinker.system.processes import end

_NO_ADDRESS = "{!r} is no address of a server{}; write http://host:port/api"
START = 600.0  # seconds; a first start takes about 20 on a busy machine, and minutes on an overloaded one


def settings(store: Path) -> None:
    """Environment for Prefect, before it is imported: its home beside the artifacts, our logs shown, no telemetry.

    Raises:
        UserError: Prefect's home cannot be made, or PREFECT_API_URL is no address of an API.
    """
    loopback.direct()
    home = store.resolve() / "prefect"
    defaults = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": "http://127.0.0.1:4200/api",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "sifthinker",
        # With doubling pauses two minutes, a little more than `tasks.runtime.server_away` waits: events of tasks outlast it.
        "PREFECT_CLIENT_MAX_RETRIES": "6",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    for name, value in defaults.items():
        if not os.environ.get(name):  # an .env file leaves them empty
            os.environ[name] = value
    os.environ["PREFECT_API_URL"] = _address(os.environ["PREFECT_API_URL"])
    home = Path(os.environ["PREFECT_HOME"])
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{home}: cannot be created: {error.strerror}; set `store` (or PREFECT_HOME) to a folder you can write"
        ) from error


def _address(api: str) -> str:
    """The address of a server's API, without a slash at its end.

    Raises:
        UserError: it is none: Prefect would wait for it, or fail at each call.
    """
    try:
        url = urlsplit(api)
        host, _ = url.hostname, url.port
    except ValueError as error:
        raise UserError(f"PREFECT_API_URL: {_NO_ADDRESS.format(api, f': {error}')}") from error
    if url.scheme not in ("http", "https") or not host:
        raise UserError(f"PREFECT_API_URL: {_NO_ADDRESS.format(api, '')}")
    if "api" not in url.path.split("/"):
        raise UserError(f"PREFECT_API_URL: {api!r} lacks /api; write {api.rstrip('/')}/api")
    return api.rstrip("/")


def settings_of_a_look(store: Path) -> None:
    """The same for a command that asks the server, and does not wait for one that is away.

    Its home is a temporary folder where it cannot be in the store.
    """
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", "0")
    try:
        settings(store)
    except UserError:
        os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="sif-looking-")


def ensure() -> str:
    """The address of the server's UI; starts a server, in a session of its own, when none answers on loopback.

    Raises:
        UserError: PREFECT_API_URL names another host and nothing answers there, the server refuses this machine, or it does
            not start.
    """
    api = os.environ["PREFECT_API_URL"]
    ui = api.removesuffix("/api")
    if admits(api):
        return ui
    url = urlsplit(api)
    host, port = url.hostname, url.port or 80
    if host not in ("127.0.0.1", "localhost") or url.scheme != "http" or url.path != "/api":
        raise UserError(
            f"PREFECT_API_URL: no Prefect server answers at {api}; start it, or unset the variable"
        )
    home = Path(os.environ["PREFECT_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + START
    try:
        with FileLock(home / "server.lock", timeout=START):  # of two commands at once, one starts the server
            if not answers(api):
                _start(api, host, port, home, deadline)
    except Timeout as error:
        raise UserError(
            f"another command has been starting the Prefect server at {ui} for {START:.0f} s; its log: {home / 'server.log'}"
        ) from error
    return ui


def _start(api: str, host: str, port: int, home: Path, deadline: float) -> None:
    """Starts a server, and waits until it answers; or until another one does, which a command with another store started.

    Raises:
        UserError: it does not.
    """
    log, pid = home / "server.log", home / "server.pid"
    options = ["--host", host, "--port", str(port)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", *options],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=_guarded(api),
        )
    pid.write_text(str(process.pid), encoding="utf-8")
    while not answers(api):
        ended = process.poll() is not None
        if ended and not _listens(host, port):
            raise UserError(f"the Prefect server did not start at {api.removesuffix('/api')}; its log: {log}")
        if time.monotonic() > deadline:
            what = (
                "something else listens there: choose another port in PREFECT_API_URL"
                if ended
                else f"it is still starting, so run again in a while, or end process {process.pid}"
            )
            raise UserError(
                f"no Prefect server answers at {api.removesuffix('/api')} after {START:.0f} s; {what}; its log: {log}"
            )
        time.sleep(0.5)
    if not _has(process.pid, port):  # another one answers: ours would end, once it finds the port taken
        end(process.pid)
        pid.unlink(missing_ok=True)


def _listens(host: str, port: int) -> bool:
    """Whether anything accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def _has(pid: int, port: int) -> bool:
    """Whether a process, or one that it started, listens on a port; where that cannot be seen, it is taken to."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return False
    for member in family:
        try:
            found = member.net_connections("tcp")
        except psutil.NoSuchProcess:  # a child has ended meanwhile
            continue
        except psutil.AccessDenied:
            return True
        if any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in found):
            return True
    return False


def _guarded(api: str) -> dict[str, str]:
    """The server's environment: no page of another origin may read its runs or start one."""
    ui = api.removesuffix("/api")
    origins = dict.fromkeys(
        (ui, ui.replace("//127.0.0.1", "//localhost"), ui.replace("//localhost", "//127.0.0.1"))
    )
    guards = {
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_UI_URL": ui,  # in the links of alerts, which the server makes
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "tasks.runtime.event_order",  # alerts come within seconds
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "tasks.runtime.kept_leases",  # a restart ends no night
        "PREFECT_SERVER_API_KEEPALIVE_TIMEOUT": "30",  # seconds: Prefect's client keeps an idle connection for 25
    }
    return {**guards, **os.environ}


def answers(api: str) -> bool:
    """Whether a Prefect server is healthy at this address.

    Raises:
        UserError: it is no address.
    """
    loopback.direct()
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=5) as response:
            return bool(response.read().strip() == b"true")
    except (OSError, http.client.HTTPException):  # nothing, or something else than a server
        return False
    except ValueError as error:
        raise UserError(f"PREFECT_API_URL: {_NO_ADDRESS.format(api, f': {error}')}") from error


def admits(api: str) -> bool:
    """Whether a Prefect server is healthy at this address, and answers this machine.

    It tells everybody that it is healthy. Prefect imports for seconds, so its settings are read only where they are needed.

    Raises:
        UserError: it is no address; or the server wants a password or key, and has not been given the right one.
    """
    healthy = answers(api)
    if healthy and _refuses(api, {}) and _refuses(api, _credentials()):
        raise UserError(
            f"PREFECT_API_URL: the server at {api} refuses this machine: set PREFECT_API_AUTH_STRING to user:password "
            "(PREFECT_API_KEY for Prefect Cloud)"
        )
    return healthy


def _refuses(api: str, headers: Mapping[str, str]) -> bool:
    """Whether a server answers that it does not know who asks, with these headers."""
    try:
        request = urllib.request.Request(f"{api}/admin/version", headers=dict(headers))
        urllib.request.urlopen(request, timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.code == 401  # any other status is about this one path, which not every server has
    except (OSError, http.client.HTTPException):
        return False
    return False


def _credentials() -> dict[str, str]:
    """The header with what Prefect's settings hold: of the environment, a profile or an .env file."""
    from prefect.settings import get_current_settings

    settings = get_current_settings().api
    if settings.auth_string is not None:
        said = base64.b64encode(settings.auth_string.get_secret_value().encode()).decode()
        return {"Authorization": f"Basic {said}"}
    key = settings.key
    return {"Authorization": f"Bearer {key.get_secret_value()}"} if key is not None else {}
