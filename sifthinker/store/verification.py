"""Whether artifacts are what their manifests say.

An artifact is verified every time that it is opened, so that damage is seen where it matters. A process reads and looks
up each file once: what was right stays right while size, modification time and inode of the file are the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from sifthinker.store.digests import Digests, stat_key
from sifthinker.store.manifest import Damaged, Manifest


class Claim(NamedTuple):
    """What a manifest says about some of its files."""

    folder: Path
    manifest: Manifest
    names: Iterable[str]  # of `manifest["files"]`


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

    def manifest(self, folder: Path) -> Manifest:
        """The manifest in an artifact's folder.

        Raises:
            Damaged: it is missing or is no JSON.
        """
        path = folder / "manifest.json"
        try:
            stat = stat_key(path.stat())
            known = self._manifests.get(folder)
            if known is None or known[0] != stat:
                known = self._manifests[folder] = (stat, json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise Damaged(f"{_name(folder)}: manifest.json cannot be read: {error}") from error
        return known[1]

    def check(self, claims: Iterable[Claim]) -> None:
        """Holds files against their manifests. Those that are new to this process are looked up in one go.

        Raises:
            Damaged: a file is missing, has another size, or was changed.
        """
        unseen: list[tuple[Path, str, str, str]] = []
        for folder, manifest, names in claims:
            for relative in names:
                expected, path = manifest["files"][relative], folder / relative
                name = f"{_name(folder)}: {relative}"
                try:
                    stat = path.stat()
                except (FileNotFoundError, NotADirectoryError):
                    raise Damaged(f"{name} is missing") from None
                if not S_ISREG(stat.st_mode):
                    raise Damaged(f"{name} is missing")
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
    return Verifier(Digests(root / "digests.sqlite"))


def _name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"
