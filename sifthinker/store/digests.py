"""The digests of files, which are remembered, and of JSON values.

They are remembered in a cache of this machine, `digests.sqlite` in the user's cache folder or in the folder that the
environment variable SIF_CACHE names. SQLite's files must not be shared by machines, and a store may be.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import platformdirs

from sifthinker.system.disk_errors import trouble

logger = logging.getLogger(__name__)
TABLE = "CREATE TABLE IF NOT EXISTS digests (stat TEXT PRIMARY KEY, sha256 TEXT NOT NULL)"
_BROKEN = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
BATCH = 500  # files a query and a transaction: a commit costs a sync


class Digests:
    """sha256 of files, remembered by what `stat_key` says: an unchanged file is read once, ever."""

    def __init__(self, path: Path) -> None:
        """Opens the database, and makes it where there is none.

        Args:
            path: the SQLite file, on a disk of this machine.
        """
        self.path = path
        self._unwritten: dict[str, str] = {}  # what could not be remembered beyond this process
        self._told = False
        self.watch: Callable[[int, int], None] = lambda done, total: (
            None
        )  # bytes read, and to be read, of a batch
        with suppress(OSError):  # what cannot be made cannot be opened either, which is told
            path.parent.mkdir(parents=True, exist_ok=True)
        with self._tolerant(), closing(sqlite3.connect(self.path, timeout=60)) as db, db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(TABLE)

    def file(self, path: Path) -> str:
        """The sha256 of a file's bytes."""
        return self.files([path])[0]

    def tree(self, path: Path) -> str:
        """The digest of a file, or of a folder's files with their names. Hidden files do not count."""
        if path.is_file():
            return self.file(path)
        files = sorted(
            p
            for p in path.rglob("*")
            if p.is_file() and not any(x[0] == "." for x in p.relative_to(path).parts)
        )
        names = [p.relative_to(path).as_posix() for p in files]
        return sha256(list(zip(names, self.files(files), strict=True)))

    def files(self, paths: Sequence[Path]) -> list[str]:
        """The sha256 of each file's bytes. All are looked up over one connection."""
        if not paths:
            return []
        stats = [stat_key(path.stat()) for path in paths]
        known = self._remembered(stats)
        unknown = [(path, stat) for path, stat in zip(paths, stats, strict=True) if stat not in known]
        done, total = 0, sum(path.stat().st_size for path, _ in unknown)
        for start in range(0, len(unknown), BATCH):
            new = {}
            for path, stat in unknown[start : start + BATCH]:
                self.watch(done, total)
                with path.open("rb") as file:
                    new[stat] = hashlib.file_digest(file, "sha256").hexdigest()
                done += path.stat().st_size
            known |= new
            self._write(new)
            self.watch(done, total)
        return [known[stat] for stat in stats]

    def remember(self, known: Mapping[Path, str]) -> None:
        """Notes digests that are known without reading the files."""
        self._write({stat_key(path.stat()): digest for path, digest in known.items()})

    def _write(self, new: Mapping[str, str]) -> None:
        self._unwritten |= new
        with self._tolerant():
            with closing(self._connect()) as db, db:
                db.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?)", new.items())
            for stat in new:
                self._unwritten.pop(stat, None)

    def _remembered(self, stats: Sequence[str]) -> dict[str, str]:
        known = {stat: self._unwritten[stat] for stat in stats if stat in self._unwritten}
        with self._tolerant(), closing(self._connect()) as db:
            for start in range(0, len(stats), BATCH):
                some = stats[start : start + BATCH]
                marks = ", ".join("?" * len(some))
                known.update(db.execute(f"SELECT stat, sha256 FROM digests WHERE stat IN ({marks})", some))
        return known

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        """Lets a store on a full or read-only disk be looked at: its files are then read again every time."""
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN:  # a cache: it is begun anew
                logger.warning("%s is damaged and is begun anew: %s", self.path, error)
                for end in ("", "-wal", "-shm"):
                    self.path.with_name(self.path.name + end).unlink(missing_ok=True)
                return
            if not (said := trouble(error)):
                raise
            if not self._told:
                logger.warning("%s: digests of files are not remembered: %s", self.path, said)
            self._told = True

    def _connect(self) -> sqlite3.Connection:
        gone = not self.path.exists()  # removed since
        db = sqlite3.connect(self.path, timeout=60)
        if gone:
            db.execute(TABLE)
        return db


def stat_key(stat: os.stat_result) -> str:
    """What tells a file from another one, and from itself after a change, without reading it."""
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"


def cache_file() -> Path:
    """Where this machine remembers digests."""
    folder = os.environ.get("SIF_CACHE") or platformdirs.user_cache_path("sifthinker")
    return Path(folder) / "digests.sqlite"


def sha256(value: Any) -> str:
    """The digest of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
