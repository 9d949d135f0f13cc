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
from sifthinker.store.manifest import MANIFEST, Damaged, Manifest, of_part
from sifthinker.store.s3 import Remote, together
from sifthinker.system.files import write_json

logger = logging.getLogger(__name__)


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
        self._place = f"{manifest['stage']}/{manifest['key']}"
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
        fetch(self._remote, self._place, self.folder, self._check, self._names)


def fetch(
    remote: Remote,
    place: str,
    folder: Path,
    check: Callable[[Path], object],
    wanted: Collection[str] | None = None,
) -> None:
    """Downloads an artifact, once for all processes of this machine that want it now.

    Args:
        remote: of its store.
        place: <stage>/<key> of the artifact.
        folder: where it is to be.
        check: holds a folder with its files against its manifest; raises `Damaged`.
        wanted: the files that are, of those in its manifest; None: all.

    Raises:
        Damaged: it is gone, or its listing is not what its manifest says.
        UserError: what came is not what its manifest says.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if not folder.exists():
            _download(remote, place, folder, check, wanted)


def _alone(folder: Path) -> FileLock:
    """Held while a folder is downloaded or its damaged files are removed."""
    return FileLock(folder.with_name(f"{folder.name}.fetching"))


def _download(
    remote: Remote,
    place: str,
    folder: Path,
    check: Callable[[Path], object],
    wanted: Collection[str] | None,
) -> None:
    """Downloads an artifact under a temporary name, holds it to its manifest, and gives it its name."""
    temporary = folder.with_name(f"{folder.name}.fetch-{uuid.uuid4().hex}")
    try:
        manifest, damage = remote.manifest(place)
        if manifest is None:
            raise Damaged(damage or f"{place} is gone")
        files = manifest["files"]

        def download(name: str) -> None:
            remote.download(f"{place}/{name}", temporary / name, files[name]["size"])
            (temporary / name).chmod(0o444)

        temporary.mkdir()
        together(download, files if wanted is None else wanted)
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
