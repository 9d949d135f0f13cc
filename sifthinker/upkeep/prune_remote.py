"""Pruning a store's remote: artifacts that nothing reaches, uploads that were cut short, and locks of the dead.

Nobody marks an object when it is looked up, so what counts there is when it was written, and what the records of runs,
aliases and nights reach; those come from all machines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from filelock import Timeout

from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import MANIFEST, Manifest, object_of, read_manifest
from sifthinker.store.s3 import Remote, Stored
from sifthinker.store.shared_records import SHARED

KINDS = ("uploaded", "upload", "lock")
LOCK = ".lock"
Name = tuple[str, str]  # stage and key


@dataclass(frozen=True)
class Upload:
    """What is on a remote under the name of an artifact.

    Attributes:
        manifest: of a whole artifact; empty for half an upload, for what is damaged, and for a lock.
        bytes: of all its objects.
        used: seconds since 1970, by the server's clock: when the last of them was written.
        left: of a whole artifact, the objects that its manifest does not name: of killed uploads, or of what it replaced.
    """

    manifest: Manifest | Mapping[str, object]
    bytes: int
    used: float
    left: Mapping[str, Stored] = field(default_factory=dict)


def uploads(store: Store) -> dict[Name, Upload]:
    """What is on a store's remote, in one listing and a request for each manifest; nothing without a remote."""
    if store.remote is None:
        return {}
    objects: dict[Name, dict[str, Stored]] = defaultdict(dict)
    for path, stored in store.remote.list("").items():
        stage, _, rest = path.partition("/")
        key, _, name = rest.partition("/")
        if key and stage not in SHARED and (name or key.endswith(LOCK)):
            objects[stage, key][name] = stored
    found: dict[Name, Upload] = {}
    for of, there in objects.items():
        manifest = _manifest(store.remote, of) if MANIFEST in there else {}
        found[of] = Upload(manifest, *_measure(there), _left(manifest, there))
    return found


def doomed(found: Mapping[Name, Upload], kept: Collection[Name]) -> Iterator[tuple[str, Name, Upload, str]]:
    """What nobody needs: its kind, its name, what there is of it, and why.

    Args:
        found: on the remote.
        kept: names that stay.
    """
    for name, upload in sorted(found.items()):
        if name[1].endswith(LOCK):
            yield "lock", name, upload, "its holder died"
        elif not upload.manifest:
            yield "upload", name, upload, "cut short, or damaged"
        elif name not in kept:
            yield "uploaded", name, upload, "no pinned and no recent run reaches it"
        elif upload.left:
            yield "upload", name, Upload({}, *_measure(upload.left)), "cut short, or replaced"


def remove(store: Store, limit: float, kind: str, name: Path) -> str:
    """Removes one thing from the remote, the manifest of an artifact first.

    Args:
        store: whose remote it is on.
        limit: seconds since 1970; what was written since stays.
        kind: of `KINDS`.
        name: stage and key.

    Returns:
        Why it stayed; "" when it is gone.
    """
    assert store.remote
    stage, key = name.parts
    try:
        with store.lock(stage, key.removesuffix(LOCK)).at_once():  # takes a dead one over, and removes it
            if kind == "lock":
                return ""
            there = store.remote.list(name.as_posix())
            # Of a whole artifact that stays, only what its manifest does not name goes.
            manifest = _manifest(store.remote, (stage, key)) if kind == "upload" and MANIFEST in there else {}
            going = _left(manifest, there) if manifest else there
            if going and _measure(going)[1] >= limit:
                return "it was written just now"
            if not manifest:
                store.remote.remove(name.as_posix())
            for left in going if manifest else ():
                store.remote.delete(f"{name.as_posix()}/{left}")
    except Timeout:
        return "it is being made now"
    return ""


def _manifest(remote: Remote, name: Name) -> Manifest | Mapping[str, object]:
    try:
        return read_manifest(remote.read(f"{name[0]}/{name[1]}/{MANIFEST}") or b"")
    except ValueError:
        return {}


def _left(manifest: Manifest | Mapping[str, object], there: Mapping[str, Stored]) -> dict[str, Stored]:
    """The objects of a whole artifact that its manifest does not name; none of what is not whole."""
    if not manifest:
        return {}
    whole = cast("Manifest", manifest)
    named = {MANIFEST, *(object_of(whole, name) for name in whole["files"])}
    return {name: stored for name, stored in there.items() if name not in named}


def _measure(there: Mapping[str, Stored]) -> tuple[int, float]:
    """The bytes of objects, and when the last of them was written."""
    return sum(stored.size for stored in there.values()), max(stored.modified for stored in there.values())
