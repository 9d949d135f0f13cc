"""Paths that lie in the store, for another host, where the store may be another folder."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store

IN_STORE = "store:"  # a path below the store: <stage>/<key>/...


def packed(text: str, root: Path) -> str:
    """A path as another host can read it; any other text as it is."""
    below = f"{root}{os.sep}"
    return IN_STORE + text.removeprefix(below) if text.startswith(below) else text


def unpacked(text: str, store: Store, todo: str) -> str:
    """The path on this host, of a verified artifact. With a remote it is downloaded.

    Args:
        text: as `packed` gave it.
        store: of this host.
        todo: what to do where the artifact is not there.

    Raises:
        UserError: the artifact is not there.
    """
    if not text.startswith(IN_STORE):
        return text
    relative = text.removeprefix(IN_STORE)
    stage, key, *rest = relative.split("/")
    found = store.find(stage, key)  # verified, as any input
    if not found:
        raise UserError(f"{relative} is not in the store {store.root}; {todo}")
    return str(found.folder.joinpath(*rest))


def pictures(name: str, given: Path, store: Store) -> Path:
    """The image folder of a source on this host.

    Args:
        name: of the source.
        given: its path, as `packed` gave it.
        store: of this host.

    Raises:
        UserError: it is not there.
    """
    folder = Path(unpacked(str(given), store, "the flow's store and this one need the same `remote`"))
    if not folder.is_dir():
        raise UserError(
            f"sources.{name}.images: there is no folder {folder} on the host {socket.gethostname()}; mount or copy it "
            "to that path there"
        )
    return folder
