"""Where a page of a store can be opened: the address that people outside use, else a server of this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sifthinker.system.files import read_json, write_json
from sifthinker.system.processes import here, runs_here

URL = "SIF_PAGES_URL"  # environment variable: the address of the pages' server, as browsers reach it
# The folders of a store that hold pages, and the page's file; between the two is the key or id.
PAGES = {
    "report": "report.html",
    "nights": "report.html",
    "comparisons": "report.html",
    "previews": "preview.html",
    "ablation": "table.md",
}


def url(root: Path, page: Path) -> str | None:
    """The address of a page of a store; None where no server of its pages is known."""
    address = server(root)
    try:
        return (
            f"{address.rstrip('/')}/{page.resolve().relative_to(root.resolve()).as_posix()}"
            if address
            else None
        )
    except ValueError:  # a page that was written elsewhere
        return None


def shown(root: Path, page: Path, title: str) -> str:
    """A page in Markdown: a link to open it where there is a server, and where its file is."""
    address = url(root, page)
    if address:
        return f"**[{title}]({address})**\n\n`{page.resolve()}`"
    return f"{title}: `{page.resolve()}` (`sif pages` serves it, and `{URL}` says at which address)"


@contextmanager
def known(root: Path, address: str) -> Iterator[None]:
    """Runs on this machine link to this server of the store's pages while the block runs."""
    file = _file(root)
    file.parent.mkdir(parents=True, exist_ok=True)
    said = {"url": address, "process": here(os.getpid())}
    write_json(file, said)
    try:
        yield
    finally:
        # Another server of this store may have come meanwhile.
        if read_json(file) == json.loads(json.dumps(said)):
            file.unlink(missing_ok=True)


def server(root: Path) -> str | None:
    """The address of the server of a store's pages: that of the environment, or of one that runs on this machine."""
    said = read_json(_file(root))
    running = str(said["url"]) if said and runs_here(said["process"]) else None
    return os.environ.get(URL) or running


def _file(root: Path) -> Path:
    return root / "prefect" / "pages.json"
