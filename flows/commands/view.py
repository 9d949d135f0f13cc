"""`sif view`: a page to look through a data set and its rejects."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import StoreConfigOption, StoreOption, console, existing
from sifthinker.core.errors import UserError

LOOPBACK = "127.0.0.1"


def view(
    store: StoreOption = None,
    config: StoreConfigOption = [],  # noqa: B006 (typer copies it)
    run: Annotated[str | None, typer.Option(help="name or id; the latest", metavar="RUN")] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="of this machine")] = 8501,
    host: Annotated[
        str,
        typer.Option(
            help="address to listen on; with any other than loopback, other machines can see the data set"
        ),
    ] = LOOPBACK,
) -> None:
    """Serves a page to look through a data set and its rejects: pictures with boxes, filters, search."""
    opened = existing(store, config)
    if find_spec("streamlit") is None:
        raise UserError("view: streamlit is not installed here: pip install -e '.[view]' -c constraints.txt")
    import sifthinker.viewing

    page = Path(sifthinker.viewing.__file__).with_name("page.py")
    settings = {
        "server.address": host,
        "server.port": port,
        "server.headless": "true",  # opens no browser, and asks for no e-mail address
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
    }
    options = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(page),
        *options,
        "--",
        str(opened.root),
        *([run] if run else []),
    ]
    console.print(f"page      http://{host}:{port}  (ends with Ctrl+C)", highlight=False, soft_wrap=True)
    try:
        done = subprocess.run(command, check=False)
    except KeyboardInterrupt:
        raise typer.Exit from None
    raise typer.Exit(1 if done.returncode else 0)
