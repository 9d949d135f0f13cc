"""Downloading an artifact from a store's remote."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from sifthinker.core.errors import UserError
from sifthinker.store.manifest import MANIFEST, Damaged
from sifthinker.store.s3 import Remote, together
from sifthinker.system.files import write_json


def fetch(remote: Remote, folder: Path, check: Callable[[Path], object]) -> None:
    """Downloads an artifact, once for all processes of this machine that want it now.

    Args:
        remote: of its store.
        folder: <stage>/<key> of the store, where it is to be.
        check: holds a folder with its files against its manifest; raises `Damaged`.

    Raises:
        Damaged: it is gone, or its listing is not what its manifest says.
        UserError: what came is not what its manifest says.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.fetching")):
        if not folder.exists():
            _download(remote, folder, check)


def _download(remote: Remote, folder: Path, check: Callable[[Path], object]) -> None:
    """Downloads an artifact under a temporary name, holds it to its manifest, and gives it its name."""
    place = f"{folder.parent.name}/{folder.name}"
    temporary = folder.with_name(f"{folder.name}.fetch-{uuid.uuid4().hex}")
    try:
        manifest, damage = remote.manifest(place)
        if manifest is None:
            raise Damaged(damage or f"{place} is gone")
        files = manifest["files"]

        def download(name: str) -> None:
            remote.download(f"{place}/{name}", temporary / name, files[name]["size"])
            (temporary / name).chmod(0o444)

        together(download, files)
        write_json(temporary / MANIFEST, manifest)
        check(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():  # else whoever makes it here was quicker
                raise
    except Damaged as damage:  # seen only now: sizes and ETags were right
        raise UserError(f"{remote.url}: {damage}; make it again with `refresh`") from damage
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
