"""This machine's copies of artifacts that another machine has just made, or has found whole."""

from __future__ import annotations

from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref


def settle(store: Store, stage: str, key: str) -> None:
    """Lets go of the copies on this machine that are damaged, or from before another machine made the artifact again.

    The store then has the artifact that the other machine has, and so does whoever is given its reference; only a later one,
    which is still to be uploaded, stays.

    Args:
        store: with a remote that the other machine shares; without one there is one folder, and nothing to do.
        stage: of the artifact.
        key: of the artifact.
    """
    if store.remote is None:
        return
    there, _ = store.remote.manifest(f"{stage}/{key}")
    here = _whole_or_gone(store, stage, key)
    is_ahead = bool(here) and store.uploads.is_due(stage, key, here)  # it waits for its upload
    if there and here and there["digest"] != here and not is_ahead:
        store.let_go(stage, key)
    of = there or store.manifest(stage, key)
    for shard in of["shards"] if of else ():
        _whole_or_gone(store, shard["stage"], shard["key"])


def settle_shard(store: Store, ref: Ref) -> None:
    """The same for one of many shards. What is not on this machine costs no question to the remote."""
    if store.folder(ref.stage, ref.key).exists():
        settle(store, ref.stage, ref.key)


def _whole_or_gone(store: Store, stage: str, key: str) -> str:
    """The digest of this machine's copy; "" where there is none, or none any more because it was damaged."""
    folder = store.folder(stage, key)
    if not folder.exists():
        return ""
    digest = store.whole(folder)
    if not digest:
        store.let_go(stage, key)
    return digest
