"""The store that `prune` and `compare` look at: a folder of this machine, or the cache of a remote that other machines fill."""

from __future__ import annotations

import os
from pathlib import Path

from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store

VARIABLE = "SIF_REMOTE"
OTHERS = {
    "prefect",
    "lost+found",
}  # in a new volume, too: Prefect's results of this very run, and the file system's own


def kept(folder: Path, remote: str = "") -> Store:
    """The store of earlier runs, with the records of other machines.

    Args:
        folder: of the artifacts; with a remote it may be empty, or not there yet
        remote: address of the copy that machines share; empty: that of SIF_REMOTE, or the one that the folder remembers

    Raises:
        UserError: there is none, or nothing is in it.
    """
    if address := remote.strip() or os.environ.get(VARIABLE, ""):
        store = Store(folder, address)
        store.pull()
        return store
    if folder.is_dir() and not {path.name for path in folder.iterdir()} - OTHERS:
        raise UserError(
            f"store {folder.resolve()}: nothing is in it, and it has no remote; give the folder that the runs used, or `remote` "
            f"(or {VARIABLE} in the worker's environment) where they are on an object store, as on Kubernetes"
        )
    return Store.existing(folder)
