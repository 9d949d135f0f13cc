"""Downloading an artifact, or what one shard needs of it, from a store's remote."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from sifthinker.core.errors import UserError
from sifthinker.store.manifest import MANIFEST, Damaged, Manifest, object_of, of_part
from sifthinker.store.s3 import Remote, together
from sifthinker.system.files import write_json

logger = logging.getLogger(__name__)
TRIES = 3  # of a download whose objects are replaced meanwhile


class OfPart:
    """What one shard needs of an artifact that is on the remote alone: the files of its part, in a folder of their own.

    Attributes:
        folder: where they are, or will be.
    """

    def __init__(
        self, remote: Remote, whole: Path, manifest: Manifest, part: int, check: Callable[[Path], None]
    ) -> None:
        """Downloads nothing yet. Files that are here and damaged are removed.

        Args:
            remote: of the store.
            whole: where the whole artifact would be.
            manifest: of the artifact.
            part: which one.
            check: holds the files of the part in a folder against the manifest; raises `Damaged`.
        """
        self._remote, self._check = remote, check
        self._manifest = manifest
        self._names = of_part(manifest, part)
        # The digest is that of the files: an artifact that was made again with others has another folder.
        self.folder = whole.with_name(f"{whole.name}.part-{part:05}-{manifest['digest'][:20]}")
        if self._is_whole():
            return
        # Another process may find the same damage, and may have mended it by now.
        with _alone(self.folder):
            if not self._is_whole() and self.folder.exists():
                trash = self.folder.with_name(f"{self.folder.name}.discarded-{uuid.uuid4().hex}")
                self.folder.rename(trash)  # at once: nobody reads half of it
                shutil.rmtree(trash)

    def _is_whole(self) -> bool:
        """Whether the files are here, as the manifest says; they then count as in use."""
        if not self.folder.exists():
            return False
        try:
            self._check(self.folder)
        except Damaged as damage:
            logger.warning("downloaded again: %s", damage)
            return False
        with suppress(FileNotFoundError):  # damaged a moment later, in another process's eyes
            os.utime(self.folder)  # `sif prune` lets it be
        return True

    def fetch(self) -> None:
        """Downloads them.

        Raises: see `fetch`.
        """
        fetch(self._remote, self._manifest, self.folder, self._check, self._names)


def fetch(
    remote: Remote,
    wanted: Manifest,
    folder: Path,
    check: Callable[[Path], object],
    names: Collection[str] | None = None,
) -> None:
    """Downloads an artifact, once for all processes of this machine that want it now.

    Args:
        remote: of its store.
        wanted: its manifest, as it was when it was looked up.
        folder: where it is to be.
        check: holds a folder with its files against its manifest; raises `Damaged`.
        names: the files that are wanted, of those in its manifest; None: all.

    Raises:
        UserError: it is gone, was made again with another content since it was looked up, or is not what its manifest says.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if not folder.exists():
            _download(remote, wanted, folder, check, names)


def _alone(folder: Path) -> FileLock:
    """Held while a folder is downloaded or its damaged files are removed."""
    return FileLock(folder.with_name(f"{folder.name}.fetching"))


def _download(
    remote: Remote,
    wanted: Manifest,
    folder: Path,
    check: Callable[[Path], object],
    names: Collection[str] | None,
) -> None:
    """Downloads what a manifest names; once more where another machine has replaced its objects meanwhile."""
    place = f"{wanted['stage']}/{wanted['key']}"
    for left in reversed(range(TRIES)):
        manifest, damage = remote.manifest(place)
        try:
            if manifest is None:
                raise Damaged(damage or f"{place} is gone")
            if manifest["digest"] != wanted["digest"]:
                raise UserError(
                    f"{remote.url}/{place}: another machine made it again, with another content, while this one read it; "
                    "run again, and the new one is taken"
                )
            _download_once(remote, manifest, folder, check, names)
            return
        except Damaged as found:  # seen only now: sizes and ETags were right
            error = UserError(f"{remote.url}: {found}; make it again with `refresh`")
            error.__cause__ = found
        except UserError as found:
            error = found
        if not left or manifest is None or remote.manifest(place)[0] in (None, manifest):
            raise error
        logger.warning("%s was replaced while it was downloaded: %s", place, error)


def _download_once(
    remote: Remote,
    manifest: Manifest,
    folder: Path,
    check: Callable[[Path], object],
    names: Collection[str] | None,
) -> None:
    """Downloads an artifact under a temporary name, holds it to its manifest, and gives it its name."""
    temporary = folder.with_name(f"{folder.name}.fetch-{uuid.uuid4().hex}")
    place, files = f"{manifest['stage']}/{manifest['key']}", manifest["files"]

    def download(name: str) -> None:
        remote.download(f"{place}/{object_of(manifest, name)}", temporary / name, files[name]["size"])
        (temporary / name).chmod(0o444)

    try:
        temporary.mkdir()
        together(download, files if names is None else names)
        here = {name: value for name, value in manifest.items() if name != "upload"}
        write_json(temporary / MANIFEST, here)
        check(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.exists():  # else whoever makes it here was quicker
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
