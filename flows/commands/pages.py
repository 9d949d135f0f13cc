"""`sif pages`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import StoreConfigOption, StoreOption, console, existing
from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store

PORT = 4201  # beside Prefect's 4200
START = 180.0  # seconds; a busy machine


def pages(
    store: StoreOption = None,
    config: StoreConfigOption = [],  # noqa: B006 (typer copies it)
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one")] = PORT,
    host: Annotated[
        str,
        typer.Option(
            help="address to listen on; put an authenticating proxy in front of any other than loopback"
        ),
    ] = "127.0.0.1",
) -> None:
    """Serves the reports, nights, comparisons and previews of a store, so that links in the UI open them."""
    # Of a folder the pages are read and nothing else: no credentials and no right to write are needed for them.
    opened = existing(store, config, pull="may" if config else "no")
    from flows import pages as server

    server.serve(
        opened, host, port, lambda url: console.print(f"pages of {opened.root}: {url}", soft_wrap=True)
    )


def _port() -> int:
    """Ours, or any other where it is taken: by the pages of another store, for example."""
    try:
        with socket.create_server(("127.0.0.1", PORT)):
            return PORT
    except OSError:
        return 0


def ensure(store: Path) -> str:
    """The address of a server of a store's pages; starts one, in a session of its own, where none runs on this machine.

    Raises:
        UserError: it does not start.
    """
    from tasks.runtime import links

    if address := links.server(store):
        return address
    home = Path(os.environ["PREFECT_HOME"])
    Store(store).root.mkdir(parents=True, exist_ok=True)
    log = home / "pages.log"
    with log.open("ab") as output:
        command = [sys.executable, "-m", "flows", "pages", "--store", str(store), "--port", str(_port())]
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    deadline = time.monotonic() + START
    while not (address := links.server(store)):
        if process.poll() is not None or time.monotonic() > deadline:
            raise UserError(f"the pages of {store} are not served; the log: {log}")
        time.sleep(0.2)
    return address
