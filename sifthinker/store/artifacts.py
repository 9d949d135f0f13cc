"""The store of artifacts: one immutable folder an artifact, named by the key of what it was made from.

    <root>/<stage>/<key>/            data files and manifest.json; the folder's existence means "done"
    <root>/<stage>/<key>.work/       what a resumable stage keeps between tries (checkpoints, logs)
    <root>/accepted/<stage>/<key>    an older artifact that stands for this key (`sif accept`)
    <root>/runs/<id>.json            which artifact every stage of a run made or took
    <root>/digests.sqlite            digests of files, remembered by size, modification time and inode

A folder is written under a temporary name, synced, and renamed; a kill at any moment leaves either the whole
artifact or none. A hit is verified before it is used: every file is there with its size and digest.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.store.lock import Lock
from sifthinker.store.s3 import Remote
from sifthinker.system.disk_errors import trouble

logger = logging.getLogger(__name__)
RECORDS = ("runs", "aliases", "accepted", "history")  # what machines with one remote tell each other
KEY_LENGTH = 20  # hex digits: 80 bits


class Ref(BaseModel):
    """What passes between tasks: names an artifact, holds no data."""

    model_config = ConfigDict(frozen=True)

    stage: str = Field(description="folder of the store")
    key: str = Field(description="of what it was made from")
    digest: str = Field(description="of the content; equal content made from other inputs has an equal one")


class Damaged(Exception):
    """An artifact that is not what its manifest says; the message says how."""


@dataclass(frozen=True)
class Artifact:
    """An artifact in a store, opened for reading."""

    ref: Ref
    place: Path
    manifest: Mapping[str, Any]
    shards: tuple[Artifact, ...] = ()
    fetch: Callable[[], None] | None = (
        None  # of one that is whole on the remote: its files come when asked for
    )

    @property
    def folder(self) -> Path:
        """Where its files are, on this machine."""
        if self.fetch and not self.place.exists():
            self.fetch()
        return self.place

    @property
    def path(self) -> Path:
        """Where the data is: the folder, or for weights kept outside the store the user's own folder."""
        external = self.manifest.get("external")
        return Path(external["path"]) if external else self.folder

    @property
    def weights(self) -> str:
        """The digest of a model's weight files alone, whatever they were made with."""
        if external := self.manifest.get("external"):
            return str(external["digest"])
        files = self.manifest["files"]
        return sha256({name: files[name]["sha256"] for name in files if name.endswith(".safetensors")})

    def parts(self, table: str) -> list[Path]:
        """The files of a table that comes in parts, in part order."""
        if self.shards:
            return [shard.folder / f"{table}.parquet" for shard in self.shards]
        return sorted(self.folder.glob(f"{table}-*.parquet"))

    def part_digests(self, table: str) -> list[str]:
        """The digest of each part; for a shard that of its whole output."""
        if self.shards:
            return [shard.ref.digest for shard in self.shards]
        return [self.manifest["files"][path.name]["sha256"] for path in self.parts(table)]

    def rejects(self) -> list[Path]:
        """The files of rejected rows, its shards' included."""
        folders = [self.folder, *(shard.folder for shard in self.shards)]
        return [path for folder in folders if (path := folder / "rejects.parquet").exists()]


@dataclass
class Draft:
    """An artifact that is being made: write into `out`, set what the manifest shall say."""

    out: Path
    manifest: dict[str, Any]  # what is known of it before
    rows: dict[str, Any] = field(default_factory=lambda: {"in": 0, "kept": 0, "rejected": {}})
    notes: dict[str, Any] = field(default_factory=dict)
    shards: list[Ref] = field(default_factory=list)
    external: Path | None = None
    lineage: bool = False  # the digest covers the key too: equal content made otherwise is not the same
    aside: set[str] = field(
        default_factory=set
    )  # files with clocks in them: verified, but no part of the digest


class Store:
    """A folder of artifacts; with a `remote`, the cache of what several machines share (see `sifthinker.store.s3`).

    The folder remembers its remote, so that whoever opens it later shares it too.
    """

    def __init__(self, root: Path, remote: str | None = None) -> None:
        self.root = root.resolve()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"store {self.root}: cannot be created: {error.strerror}; set `store` to a folder you can write"
            ) from error
        self.digests = Digests(self.root / "digests.sqlite")
        self.remote = self._remote(remote)

    @classmethod
    def existing(cls, root: Path) -> Store:
        """The store of earlier runs.

        Raises:
            UserError: there is none.
        """
        if not root.is_dir():
            raise UserError(f"store {root}: no such folder; give the folder that the runs used")
        store = cls(root)
        store.pull()
        return store

    @classmethod
    def of(cls, config: Config) -> Store:
        """The store of a configuration, with the records of other machines."""
        store = cls(config.store, config.remote)
        store.pull()
        return store

    def pull(self) -> None:
        """Fetches the records (runs, aliases, acceptances, nights) that other machines have written."""
        if self.remote is None:
            return
        for kind in RECORDS:
            for name, there in self.remote.list(kind).items():
                path = self.root / kind / name
                if not path.exists() or path.stat().st_mtime < there.modified:
                    temporary = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
                    self.remote.download(f"{kind}/{name}", temporary)
                    os.utime(temporary, (there.modified, there.modified))
                    temporary.rename(path)

    def record(self, path: Path, value: Any) -> None:
        """Writes a record as JSON, for other machines too."""
        write_json(path, value)
        self.share(path)

    def share(self, path: Path) -> None:
        """Gives a file of the store to the other machines."""
        if self.remote:
            self.remote.upload(path, path.relative_to(self.root).as_posix())

    def _remote(self, url: str | None) -> Remote | None:
        known = self.root / "remote.json"
        if known.exists():
            was = json.loads(known.read_text(encoding="utf-8"))["url"]
            if url not in (None, was):
                raise UserError(f"store {self.root}: caches {was}; give {url} another folder as `store`")
            return Remote(was)
        if url is None:
            return None
        remote = Remote(url)
        write_json(known, {"url": url})
        return remote

    def folder(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    def work(self, stage: str, key: str) -> Path:
        """The folder that survives a failed try of this very artifact."""
        path = self.root / stage / f"{key}.work"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def lock(self, stage: str, key: str) -> Lock:
        """Held while an artifact is made, so that two runs that want the same one make it once."""
        (self.root / stage).mkdir(parents=True, exist_ok=True)
        remote = self.remote.lock(f"{stage}/{key}.lock") if self.remote else None
        return Lock(self.root / stage / f"{key}.lock", remote)

    def find(self, stage: str, key: str) -> Artifact | None:
        """The verified artifact of a key, or the one accepted for it; None when there is none.

        Raises:
            Damaged: there is one, but a file is missing or is not what the manifest says.
        """
        accepted = self.root / "accepted" / stage / key
        if not self.folder(stage, key).exists() and accepted.exists():
            key = json.loads(accepted.read_text(encoding="utf-8"))["key"]
        return self._look(stage, key)

    def open(self, ref: Ref) -> Artifact:
        """The artifact of a reference.

        Raises:
            Damaged: it is gone, or not what its manifest says.
        """
        found = self._look(ref.stage, ref.key)
        if found is None:
            raise Damaged(f"{ref.stage}/{ref.key} is not in the store")
        return found

    def _look(self, stage: str, key: str) -> Artifact | None:
        folder = self.folder(stage, key)
        if folder.exists():
            return self._open(folder)
        if self.remote is None:
            return None
        manifest, damage = self.remote.manifest(f"{stage}/{key}")
        if damage:
            raise Damaged(damage)
        return self._artifact(folder, manifest, partial(self._fetch, stage, key)) if manifest else None

    def _fetch(self, stage: str, key: str) -> None:
        """Downloads an artifact under a temporary name, holds it to its manifest, and gives it its name."""
        assert self.remote
        folder = self.folder(stage, key)
        temporary = folder.with_name(f"{key}.fetch-{uuid.uuid4().hex}")
        try:
            manifest = json.loads(self.remote.read(f"{stage}/{key}/manifest.json") or b"{}")
            for name in manifest.get("files", ()):
                self.remote.download(f"{stage}/{key}/{name}", temporary / name)
            write_json(temporary / "manifest.json", manifest)
            self._open(temporary)
            try:
                temporary.rename(folder)
            except OSError:
                if not folder.exists():  # else another process was quicker
                    raise
        except Damaged as damage:  # seen only now: sizes and ETags were right
            raise UserError(f"{self.remote.url}: {damage}; make it again with `refresh`") from damage
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def discard(self, stage: str, key: str) -> None:
        """Removes an artifact: out of its name first, so that no half of it is ever taken for whole."""
        folder = self.folder(stage, key)
        if folder.exists():
            trash = folder.with_name(f"{key}.discarded-{uuid.uuid4().hex}")
            folder.rename(trash)
            shutil.rmtree(trash)
        if self.remote:
            self.remote.remove(f"{stage}/{key}")

    @contextmanager
    def making(self, stage: str, key: str, manifest: Mapping[str, Any]) -> Iterator[Draft]:
        """Yields a draft; on a clean exit it becomes the artifact, otherwise nothing remains of it."""
        started = time.time()
        parent = self.root / stage
        parent.mkdir(parents=True, exist_ok=True)
        for stale in parent.glob(f"{key}.tmp-*"):  # a killed run's; the lock says nobody writes there now
            shutil.rmtree(stale)
        draft = Draft(parent / f"{key}.tmp-{uuid.uuid4().hex}", {"stage": stage, "key": key, **manifest})
        draft.out.mkdir()
        try:
            yield draft
            self._seal(draft, started)
            self.discard(stage, key)
            if self.remote:  # first: what is here is there
                self.remote.push(draft.out, f"{stage}/{key}")
            draft.out.rename(self.folder(stage, key))
            _sync(parent)
        finally:
            shutil.rmtree(draft.out, ignore_errors=True)

    def manifests(self, stage: str) -> list[dict[str, Any]]:
        """The readable manifests of a stage's artifacts, latest first."""
        found = []
        for path in (self.root / stage).glob("*/manifest.json"):
            try:
                found.append(json.loads(path.read_text(encoding="utf-8")))
            except ValueError as error:  # whoever wants this artifact finds it damaged and makes it again
                logger.warning("%s is damaged: %s", path, error)
        return sorted(found, key=lambda m: float(m["made"]), reverse=True)

    def manifest(self, stage: str, key: str) -> dict[str, Any] | None:
        """The manifest of an artifact, wherever it is; its files are not looked at."""
        path = self.folder(stage, key) / "manifest.json"
        if path.exists():
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return found
        return self.remote.manifest(f"{stage}/{key}")[0] if self.remote else None

    def accept(self, stage: str, key: str, instead: str, why: str, who: str) -> Path:
        """Records that the artifact `instead` stands for `key` from now on."""
        path = self.root / "accepted" / stage / key
        self.record(path, {"key": instead, "why": why, "who": who, "when": time.time()})
        return path

    def _open(self, folder: Path) -> Artifact:
        name = f"{folder.parent.name}/{folder.name}"
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Damaged(f"{name}: manifest.json cannot be read: {error}") from error
        for relative, expected in manifest["files"].items():
            path = folder / relative
            if not path.is_file():
                raise Damaged(f"{name}: {relative} is missing")
            if path.stat().st_size != expected["size"]:
                raise Damaged(f"{name}: {relative} has {path.stat().st_size} bytes, not {expected['size']}")
            if self.digests.file(path) != expected["sha256"]:
                raise Damaged(f"{name}: {relative} was changed: its digest differs")
        with suppress(
            OSError
        ):  # in use: `sif prune` lets it be; a store that is only read is not pruned either
            os.utime(folder)
        return self._artifact(folder, manifest)

    def _artifact(
        self, folder: Path, manifest: Mapping[str, Any], fetch: Callable[[], None] | None = None
    ) -> Artifact:
        name = f"{manifest['stage']}/{manifest['key']}"
        if external := manifest.get("external"):
            path = Path(external["path"])
            if not path.exists() or self.digests.tree(path) != external["digest"]:
                raise Damaged(f"{name}: {path} is gone or was changed")
        shards = tuple(self.open(Ref(**shard)) for shard in manifest["shards"])
        ref = Ref(stage=manifest["stage"], key=manifest["key"], digest=manifest["digest"])
        return Artifact(ref, folder, manifest, shards, fetch)

    def _seal(self, draft: Draft, started: float) -> None:
        files = {
            str(path.relative_to(draft.out)): {"size": path.stat().st_size, "sha256": self.digests.file(path)}
            for path in sorted(draft.out.rglob("*"))
            if path.is_file()
        }
        content: dict[str, Any] = {
            "files": files,
            "shards": [shard.model_dump() for shard in draft.shards],
            "rows": draft.rows,
        }
        if draft.external:
            content["external"] = {
                "path": str(draft.external.resolve()),
                "digest": self.digests.tree(draft.external),
            }
        digest = sha256(
            {
                "files": {name: entry["sha256"] for name, entry in files.items() if name not in draft.aside},
                "shards": [shard.digest for shard in draft.shards],
                "external": content.get("external", {}).get("digest"),
                "key": draft.manifest["key"] if draft.lineage else None,
            }
        )
        for name in files:
            _sync(draft.out / name)
        write_json(
            draft.out / "manifest.json",
            {
                **draft.manifest,
                "digest": digest,
                **content,
                "notes": draft.notes,
                "made": started,
                "seconds": round(time.time() - started, 3),
            },
        )


class Digests:
    """sha256 of files, remembered by size, modification time and inode: unchanged files are read once, ever."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unwritten: dict[str, str] = {}  # what could not be remembered beyond this process
        self._told = False
        with self._tolerant(), closing(self._connect()) as db, db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE IF NOT EXISTS digests (stat TEXT PRIMARY KEY, sha256 TEXT NOT NULL)")

    def file(self, path: Path) -> str:
        """The sha256 of a file's bytes."""
        return self._files([path])[0]

    def tree(self, path: Path) -> str:
        """The digest of a file, or of a folder's files with their names (hidden ones left out)."""
        if path.is_file():
            return self.file(path)
        files = sorted(
            p
            for p in path.rglob("*")
            if p.is_file() and not any(x[0] == "." for x in p.relative_to(path).parts)
        )
        names = [p.relative_to(path).as_posix() for p in files]
        return sha256(list(zip(names, self._files(files), strict=True)))

    def _files(self, paths: list[Path]) -> list[str]:
        stats = [_stat_key(path) for path in paths]
        known = {stat: self._unwritten[stat] for stat in stats if stat in self._unwritten}
        with self._tolerant(), closing(self._connect()) as db:
            for stat in stats:
                if row := db.execute("SELECT sha256 FROM digests WHERE stat = ?", (stat,)).fetchone():
                    known[stat] = row[0]
        unknown = [(path, stat) for path, stat in zip(paths, stats, strict=True) if stat not in known]
        for start in range(0, len(unknown), 500):  # one transaction for many: a commit costs a sync
            new = {}
            for path, stat in unknown[start : start + 500]:
                with path.open("rb") as file:
                    new[stat] = hashlib.file_digest(file, "sha256").hexdigest()
            known |= new
            self._unwritten |= new
            with self._tolerant():
                with closing(self._connect()) as db, db:
                    db.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?)", new.items())
                for stat in new:
                    self._unwritten.pop(stat, None)
        return [known[stat] for stat in stats]

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        """A store on a disk that is full or read-only can be looked at: its files are then read again every time."""
        try:
            yield
        except sqlite3.Error as error:
            if not (said := trouble(error)):
                raise
            if not self._told:
                logger.warning("%s: digests of files are not remembered: %s", self.path, said)
            self._told = True

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=60)


def sha256(value: Any) -> str:
    """The digest of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Writes JSON under a temporary name, syncs, renames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
    try:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        _sync(temporary)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _stat_key(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_dev}:{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
