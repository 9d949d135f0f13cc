"""Sealing an artifact: its files are synced, made read-only and digested, and its manifest is written last."""

from __future__ import annotations

import filecmp
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sifthinker.store.digests import Digests, sha256
from sifthinker.store.manifest import MANIFEST, Draft, File, read_manifest, sealed
from sifthinker.system.files import sync, write_json

LARGE = 1 << 20  # bytes from which a file that an input has too is kept once


def seal(draft: Draft, digests: Digests, started: float, inputs: Iterable[Path]) -> str:
    """Makes a draft's folder an artifact but for its name; returns its digest.

    A large file that an input has too becomes a hard link to it, where the file system has such: a merged model's
    unchanged weights, the rows of a subset that is the whole.

    Args:
        draft: what was written, and what is known about it.
        digests: of files.
        started: when its making began, in seconds since 1970.
        inputs: the folders of the artifacts that it was made from.
    """
    files = _files(draft.out, digests)
    _link(draft.out, files, digests, inputs)
    content: dict[str, Any] = {
        "files": files,
        "shards": [shard.model_dump() for shard in draft.shards],
        "rows": draft.rows,
    }
    if draft.external:
        content["external"] = {
            "path": str(draft.external.resolve()),
            "digest": digests.tree(draft.external),
        }
    digest = sha256(
        {
            "files": {name: entry["sha256"] for name, entry in files.items() if name not in draft.aside},
            "shards": [shard.digest for shard in draft.shards],
            "external": content.get("external", {}).get("digest"),
            "key": draft.manifest["key"] if draft.lineage else None,
        }
    )
    for path in draft.out.rglob("*"):
        sync(path)
    fields = {
        **draft.manifest,
        "digest": digest,
        **content,
        "notes": draft.notes,
        "made": started,
        "seconds": round(time.time() - started, 3),
    }
    write_json(draft.out / MANIFEST, sealed(fields))
    return digest


def _files(folder: Path, digests: Digests) -> dict[str, File]:
    """The files of a folder, read-only from now on. A link becomes a file: what it names may change."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in paths:
        if path.is_symlink():
            copy = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
            shutil.copyfile(path, copy)
            copy.replace(path)
        path.chmod(path.stat().st_mode & ~0o222)
    return {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, digests.files(paths), strict=True)
    }


def _link(folder: Path, files: Mapping[str, File], digests: Digests, inputs: Iterable[Path]) -> None:
    """Replaces files that an input has too by hard links."""
    large = {entry["sha256"]: name for name, entry in files.items() if entry["size"] >= LARGE}
    if not large:
        return
    for there, digest in _large(inputs):
        if (name := large.pop(digest, None)) is None:
            continue
        # The bytes are compared: a file that rotted unseen must not take the place of a whole one.
        with suppress(OSError):  # another file system, or one without hard links: both are kept
            if not filecmp.cmp(there, folder / name, shallow=False):
                continue
            link = folder / f"{name}.tmp-{uuid.uuid4().hex}"
            os.link(there, link)
            link.replace(folder / name)
            digests.remember({folder / name: digest})  # a link changes the file's times


def _large(inputs: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    for folder in inputs:
        manifest = read_manifest((folder / MANIFEST).read_bytes())
        for name, entry in manifest["files"].items():
            if entry["size"] >= LARGE:
                yield folder / name, entry["sha256"]
