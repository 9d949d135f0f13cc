"""Connections: which are used again, and whether a request had one at all.

aiohttp reads what arrives on an idle connection as the answer to the next request (seen with 3.14.5): one reply too many
would be recorded, and paid for, as the reply to another question. So a connection is not used again after a server has
said more on it than it was asked for.
"""

from __future__ import annotations

import os
import ssl
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any

import aiohttp
import httpx2


@dataclass(slots=True)
class Way:
    """That of one request."""

    is_open: bool = False  # there is a connection: what is sent on it may be answered, and paid for


_way: ContextVar[Way] = ContextVar("way")


def way() -> Way:
    """That of the requests which this task sends from now on."""
    made = Way()
    _way.set(made)
    return made


class Connector(aiohttp.TCPConnector):
    """Takes a kept connection only if nothing has arrived on it meanwhile."""

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        """A connection for a request, whose way is open then."""
        found = await super().connect(*args, **kwargs)
        _way.get().is_open = True
        return found

    async def _get(self, key: Any, traces: Any) -> Any:
        while (found := await super()._get(key, traces)) is not None:
            if found.protocol is not None and not found.protocol.should_close:
                return found
            found.close()
        return None


def trusted() -> ssl.SSLContext:
    """The certificates that servers' own are checked with. Reading them takes longer than all else that an engine starts with."""
    return _read(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _read(file: str | None, folder: str | None) -> ssl.SSLContext:
    """They are read once a process, and again where the environment names others: httpx2 finds them there."""
    return httpx2.create_ssl_context()


def guard(client: httpx2.AsyncClient) -> None:
    """Lets the transports of the official client's aiohttp client use such connections, before the first request."""
    for transport in (client._transport, *client._mounts.values()):
        if transport is not None:
            transport.client = _Session(transport)  # type: ignore[attr-defined]


class _Session:
    """Makes a transport's session when its loop runs; limits and certificates are the transport's own."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def __call__(self) -> aiohttp.ClientSession:
        limits = self._transport.limits
        connector = Connector(
            limit=limits.max_connections or 0,
            keepalive_timeout=limits.keepalive_expiry,
            ssl=self._transport.ssl_context,
        )
        return aiohttp.ClientSession(connector=connector)
