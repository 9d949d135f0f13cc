"""Whether artifacts are what their manifests say.

An artifact is verified every time that it is opened, so that damage is seen where it matters: its manifest is whole and
is that of this stage and key, and its folder has the files that the manifest lists and no others. A process reads and
looks up each file once: what was right stays right while size, times and inode of the file are the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from stat import S_ISLNK, S_ISREG
from typing import NamedTuple

from sifthinker.store.digests import Digests, cache_file, stat_key
from sifthinker.store.manifest import MANIFEST, Damaged, Manifest, of_part, read_manifest


class Claim(NamedTuple):
    """What a manifest says about some of its files."""

    folder: Path
    manifest: Manifest
    names: Iterable[str]  # of `manifest["files"]`


def claim(folder: Path, manifest: Manifest, part: int | None) -> Claim:
    """What is to be verified of an artifact's own files: all, or those of a part."""
    return Claim(folder, manifest, list(manifest["files"]) if part is None else of_part(manifest, part))


class Verifier:
    """Holds artifacts against their manifests, and remembers what it has seen as long as the process lives."""

    def __init__(self, digests: Digests) -> None:
        """Starts with nothing seen.

        Args:
            digests: of the same store.
        """
        self.digests = digests
        self._manifests: dict[Path, tuple[str, Manifest]] = {}  # with the stat key of each
        self._seen: dict[str, str] = {}  # sha256 of verified files by their stat keys

    def manifest(self, folder: Path, name: str | None = None) -> Manifest:
        """The manifest in an artifact's folder.

        Args:
            folder: of the artifact.
            name: <stage>/<key> that the manifest has to be of; None: what the folder is called.

        Raises:
            Damaged: it is missing, is not what was written, or is that of another artifact.
        """
        path, name = folder / MANIFEST, name or f"{folder.parent.name}/{folder.name}"
        try:
            stat = stat_key(path.stat())
            known = self._manifests.get(folder)
            if known is None or known[0] != stat:
                known = self._manifests[folder] = (stat, read_manifest(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise Damaged(f"{name}: {MANIFEST} cannot be read: {error}") from error
        found = known[1]
        if (says := f"{found['stage']}/{found['key']}") != name:
            raise Damaged(f"{name}: {MANIFEST} is that of {says}")
        return found

    def check(self, claims: Iterable[Claim]) -> None:
        """Holds files against their manifests. Those that are new to this process are looked up in one go.

        Raises:
            Damaged: a file is missing, has another size, is a link, was changed, or is not in the manifest.
        """
        unseen: list[tuple[Path, str, str, str]] = []
        for folder, manifest, names in claims:
            artifact = f"{manifest['stage']}/{manifest['key']}"
            if foreign := sorted(set(_files(folder)) - manifest["files"].keys() - {MANIFEST}):
                raise Damaged(
                    f"{artifact}: {foreign[0]} is not in its manifest; remove the file if it is yours"
                )
            for relative in names:
                expected, path = manifest["files"][relative], folder / relative
                name = f"{artifact}: {relative}"
                stat = _stat(path, name)
                if stat.st_size != expected["size"]:
                    raise Damaged(f"{name} has {stat.st_size} bytes, not {expected['size']}")
                seen = stat_key(stat)
                if self._seen.get(seen) != expected["sha256"]:
                    unseen.append((path, name, seen, expected["sha256"]))
        found = self.digests.files([path for path, *_ in unseen])
        for (_, name, seen, wanted), digest in zip(unseen, found, strict=True):
            if digest != wanted:
                raise Damaged(f"{name} was changed: its digest differs")
            self._seen[seen] = digest


@cache
def verifier(root: Path) -> Verifier:
    """The one verifier of a store in this process.

    Args:
        root: the store's folder, as an absolute path.
    """
    return Verifier(Digests(cache_file()))


def _files(folder: Path) -> Iterator[str]:
    """The names below a folder of all that is no folder. Hidden ones do not count: no reader takes them for data."""
    for place, _, names in os.walk(folder):
        below = "" if place == str(folder) else f"{Path(place).relative_to(folder).as_posix()}/"
        yield from (f"{below}{name}" for name in names if not name.startswith("."))


def _stat(path: Path, name: str) -> os.stat_result:
    try:
        stat = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise Damaged(f"{name} is missing") from None
    if S_ISLNK(stat.st_mode):
        raise Damaged(f"{name} is a link; a store has the files themselves")
    if not S_ISREG(stat.st_mode):
        raise Damaged(f"{name} is missing")
    return stat
