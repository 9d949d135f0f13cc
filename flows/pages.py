"""A server of a store's pages: reports, nights, comparisons, previews. It reads nothing else, and changes nothing.

Links to these pages are made by tasks/runtime/links.py.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from sifthinker.core.errors import UserError
from sifthinker.reporting.pages import render
from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from tasks.runtime import links

SHOWN = 200  # pages of a kind in the list
KEY = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{0,99}")
LOOPBACK = ("127.0.0.1", "localhost")
# Pages hold their pictures, and have no script. What is data in them is escaped; this is the second lock.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
}
Next = Callable[[Request], Awaitable[Response]]


def app(root: Path, hosts: tuple[str, ...] = LOOPBACK) -> Starlette:
    """The pages of the store in a folder, for requests to one of these hosts: no other name may stand for this server."""
    root = root.resolve()

    def listed(_: Request) -> Response:
        return HTMLResponse(render("pages.html.jinja", kinds=pages(root)))

    def page(request: Request) -> Response:
        kind, key, name = (request.path_params[part] for part in ("kind", "key", "name"))
        if links.PAGES.get(kind) != name or not KEY.fullmatch(key):
            raise HTTPException(404)
        file = root / kind / key / name
        if not _own(file):
            raise HTTPException(404)
        return FileResponse(file, media_type="text/html" if name.endswith(".html") else "text/plain")

    def health(_: Request) -> Response:
        return PlainTextResponse("ok")

    routes = [Route("/", listed), Route("/healthz", health), Route("/{kind}/{key}/{name}", page)]
    guards = [
        Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        Middleware(BaseHTTPMiddleware, dispatch=_guarded),
    ]
    made = Starlette(routes=routes, middleware=guards)
    made.router.redirect_slashes = False
    return made


async def _guarded(request: Request, following: Next) -> Response:
    response = await following(request)
    response.headers.update(HEADERS)
    return response


def _own(file: Path) -> bool:
    """Whether a file is one of the store's own: no link leads to it, and none is it."""
    try:
        return stat.S_ISREG(file.lstat().st_mode) and file.resolve() == file
    except OSError:
        return False


def pages(root: Path) -> dict[str, list[dict[str, str]]]:
    """The pages that there are, by kind, the latest first: `path`, `when` (UTC), and `what` it is about."""
    of_run: dict[str, str] = {}
    for _, record in runs.records(root):
        of_run.setdefault(record.get("id", ""), record.get("name", ""))
        for ref in record.get("stages", {}).values():
            of_run.setdefault(f"{ref['stage']}/{ref['key']}", record["name"])
    found: dict[str, list[dict[str, str]]] = {}
    for kind, name in links.PAGES.items():
        files = [
            file for file in (root / kind).glob(f"*/{name}") if KEY.fullmatch(file.parent.name) and _own(file)
        ]
        files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
        found[kind] = [
            {
                "path": f"{kind}/{file.parent.name}/{name}",
                "when": time.strftime("%Y-%m-%d %H:%M", time.gmtime(file.stat().st_mtime)),
                "what": of_run.get(f"{kind}/{file.parent.name}") or of_run.get(file.parent.name[:36]) or "",
            }
            for file in files[:SHOWN]
        ]
    return found


def serve(store: Store, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serves the pages of a store until a signal ends it. Runs on this machine link to it meanwhile.

    Args:
        store: whose pages.
        host: address to listen on.
        port: to listen on; 0: a free one.
        ready: is told the address.

    Raises:
        UserError: the port is taken, or the address is none of this machine.
    """
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        if (number := error.errno or 0) < 0:  # of the resolver
            raise UserError(f"pages: {host}: no address of this machine; give another --host") from error
        raise UserError(
            f"pages: {host}:{port}: {os.strerror(number)}; give another --port, or stop what uses it"
        ) from error
    outside = urlsplit(os.environ.get(links.URL, "")).hostname
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    address = f"http://{shown}:{listening.getsockname()[1]}"
    hosts = tuple(dict.fromkeys([*LOOPBACK, shown, *([outside] if outside else [])]))
    # Where links have an address of their own, nothing is written: a container may see the store read-only.
    with nullcontext() if os.environ.get(links.URL) else links.known(store.root, address):
        ready(address)
        uvicorn.Server(
            uvicorn.Config(app(store.root, hosts), log_level="warning", access_log=False, server_header=False)
        ).run(sockets=[listening])
