"""The store of artifacts: one immutable folder an artifact, named by the key of what it was made from.

    <root>/<stage>/<key>/            data files and manifest.json; the folder's existence means "done"
    <root>/<stage>/<key>.work/       what a resumable stage keeps between tries (checkpoints, logs)
    <root>/<stage>/<key>.part-...    of an artifact on the remote, the files that one shard needs
    <root>/<stage>/<key>.pending     the artifact is still to be uploaded to the remote
    <root>/accepted/<stage>/<key>    an older artifact that stands for this key (`sif accept`)
    <root>/runs/<id>.json            which artifact every stage of a run made or took
    <root>/unsent/<path>.json        a record is still to be sent to the remote (`sifthinker.store.shared_records`)

A folder is written under a temporary name, synced, made read-only, and renamed. It then goes to the remote, and only after that the
artifact that it replaces is removed: a failed upload costs neither. A hit is verified before it is used
(`sifthinker.store.verification`).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from filelock import Timeout

from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.store.downloads import OfPart, fetch
from sifthinker.store.lock import Lock
from sifthinker.store.manifest import Artifact, Damaged, Draft, Manifest, Ref, shards
from sifthinker.store.s3 import Remote
from sifthinker.store.sealing import seal
from sifthinker.store.shared_records import RECORDS, SHARED, SharedRecords
from sifthinker.store.uploads import Uploads
from sifthinker.store.verification import claim, verifier
from sifthinker.system.files import sync, write_json

logger = logging.getLogger(__name__)
KEY_LENGTH = 20  # hex digits: 80 bits


class Store:
    """A folder of artifacts. With a `remote` it is the cache of what several machines share (`sifthinker.store.s3`).

    The folder remembers its remote, so that whoever opens it later shares it too.
    """

    def __init__(self, root: Path, remote: str | None = None) -> None:
        """Opens a store, and makes the folder where there is none.

        Args:
            root: the folder.
            remote: address of the copy that other machines share; None: the one that the folder remembers, if any.

        Raises:
            UserError: the folder cannot be made, or is the cache of another remote.
        """
        self.root = root.resolve()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"store {self.root}: cannot be created: {error.strerror}; set `store` to a folder you can write"
            ) from error
        self._verifier = verifier(self.root)
        self.digests = self._verifier.digests
        self.remote = self._remote(remote)
        self.uploads = Uploads(self.root, self.remote)
        self.shared = SharedRecords(self.root, self.remote)

    @classmethod
    def existing(cls, root: Path, pull: bool = True) -> Store:
        """The store of earlier runs, for people who look at it.

        Args:
            root: its folder.
            pull: fetches the records and pages of other machines.

        Raises:
            UserError: there is none, or its remote cannot be read.
        """
        if not root.is_dir():
            raise UserError(f"store {root}: no such folder; give the folder that the runs used")
        store = cls(root)
        if pull:
            store.pull(pages=True)
        return store

    @classmethod
    def of(cls, config: Config) -> Store:
        """The store of a configuration, with the records of other machines."""
        store = cls(config.store, config.remote)
        store.pull()
        return store

    def pull(self, pages: bool = False) -> None:
        """Fetches the records (runs, aliases, acceptances, nights) that other machines have written.

        Args:
            pages: their pages of nights and comparisons too, which people read and runs do not.
        """
        self.shared.pull(SHARED if pages else RECORDS)

    def record(self, path: Path, value: Any) -> None:
        """Writes a record as JSON, for other machines too.

        Raises:
            UserError: the remote does not take it. It is in the store; `push_pending` and `pull` try again.
        """
        with self.sharing(path):
            write_json(path, value)

    def sharing(self, *paths: Path, strict: bool = True) -> AbstractContextManager[None]:
        """Gives files that the block writes to the other machines; see `SharedRecords.sharing`."""
        return self.shared.sharing(*paths, strict=strict)

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
        """Where an artifact is, or would be."""
        return self.root / stage / key

    def work(self, stage: str, key: str) -> Path:
        """The folder that survives a failed try of this very artifact."""
        path = self.root / stage / f"{key}.work"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def lock(self, stage: str, key: str, by: str = "") -> Lock:
        """Held while an artifact is made, so that two runs that want the same one make it once.

        Args:
            stage: of the artifact.
            key: of the artifact.
            by: who makes it, for `free`.
        """
        (self.root / stage).mkdir(parents=True, exist_ok=True)
        remote = self.remote.lock(f"{stage}/{key}.lock", by) if self.remote else None
        return Lock(self.root / stage / f"{key}.lock", remote)

    def free(self, stage: str, key: str, dead: Collection[str]) -> bool:
        """Takes the lock of an artifact from makers on other machines who are known to be dead; whether one had it."""
        return self.remote is not None and self.remote.lock(f"{stage}/{key}.lock").free(dead)

    def find(self, stage: str, key: str) -> Artifact | None:
        """The verified artifact of a key, or the one accepted for it; None when there is none.

        Raises:
            Damaged: there is one, but a file is missing or is not what the manifest says.
        """
        accepted = self.root / "accepted" / stage / key
        if accepted.exists() and not self.folder(stage, key).exists() and not self.uploads.there(stage, key):
            key = json.loads(accepted.read_text(encoding="utf-8"))["key"]
        return self._look(stage, key)

    def open(self, ref: Ref, part: int | None = None) -> Artifact:
        """The artifact of a reference, verified.

        Args:
            ref: names it.
            part: of a table that comes in parts, the only one that is wanted; the others are not looked at.

        Raises:
            Damaged: it is gone, is not what its manifest says, or was made again since with another content.
        """
        found = self._look(ref.stage, ref.key, part)
        if found and found.ref.digest != ref.digest and self._is_stale(ref):
            found = self._look(ref.stage, ref.key, part)
        if found is None:
            raise Damaged(f"{ref.stage}/{ref.key} is not in the store")
        if found.ref.digest != ref.digest:
            raise Damaged(f"{ref.stage}/{ref.key} has another content than the one that was asked for")
        return found

    def _look(self, stage: str, key: str, part: int | None = None) -> Artifact | None:
        folder = self.folder(stage, key)
        if folder.exists():
            return self._open(folder, part)
        if self.remote is None:
            return None
        manifest, damage = self.remote.manifest(f"{stage}/{key}")
        if damage:
            raise Damaged(damage)
        if manifest is None:
            return None
        if part is None or manifest["shards"]:
            return self._artifact(folder, manifest, part, partial(self._fetch, folder, manifest))
        check = partial(claim, manifest=manifest, part=part)
        mine = OfPart(self.remote, folder, manifest, part, lambda at: self._verifier.check([check(at)]))
        return self._artifact(mine.folder, manifest, part, mine.fetch)

    def _is_stale(self, ref: Ref) -> bool:
        """Whether this machine's copy of an artifact is from before another machine made it again; it then goes."""
        if self.uploads.there(ref.stage, ref.key) != ref.digest:
            return False
        if self.uploads.replaces(ref.stage, ref.key, ref.digest):
            return False  # ours is the later one, and still to be uploaded
        self.let_go(ref.stage, ref.key)
        return True

    def _fetch(self, folder: Path, manifest: Manifest) -> None:
        assert self.remote
        name = f"{folder.parent.name}/{folder.name}"
        fetch(self.remote, manifest, folder, lambda downloaded: self._open(downloaded, name=name))

    def discard(self, stage: str, key: str) -> None:
        """Removes an artifact: out of its name first, so that no half of it is ever taken for whole."""
        self.let_go(stage, key)
        if self.remote:
            self.remote.remove(f"{stage}/{key}")

    def let_go(self, stage: str, key: str) -> None:
        """Removes this machine's copy of an artifact, uploaded or not."""
        self.uploads.forget(stage, key)
        folder = self.folder(stage, key)
        if folder.exists():
            trash = folder.with_name(f"{key}.discarded-{uuid.uuid4().hex}")
            folder.rename(trash)
            shutil.rmtree(trash)

    @contextmanager
    def making(
        self, stage: str, key: str, manifest: Mapping[str, Any], still: Callable[[], None] = lambda: None
    ) -> Iterator[Draft]:
        """Yields a draft; on a clean exit it becomes the artifact, otherwise nothing remains of it.

        An artifact of the same name stays until the new one is whole, here and on the remote.

        Args:
            stage: its folder.
            key: its name there.
            manifest: what is known of it before.
            still: asked before it gets its name; raises where somebody else may be making it by now.

        Raises:
            UserError: the upload failed. The artifact is in the store; `push_pending` tries again.
        """
        started, replaces = time.time(), self.uploads.there(stage, key)
        parent = self.root / stage
        parent.mkdir(parents=True, exist_ok=True)
        for stale in parent.glob(f"{key}.tmp-*"):  # a killed run's; the lock says nobody writes there now
            shutil.rmtree(stale)
        unknown = {"label": stage, "name": "", "identity": {}, "inputs": {}, "versions": {}}
        known = {**unknown, **manifest, "stage": stage, "key": key}
        draft = Draft(parent / f"{key}.tmp-{uuid.uuid4().hex}", known)
        draft.out.mkdir()
        try:
            yield draft
            digest = seal(draft, self.digests, started, self._inputs(draft))
            still()
            self.uploads.note(stage, key, digest, replaces)  # first: for a run that is killed from here on
            self._publish(draft.out, stage, key)
        finally:
            shutil.rmtree(draft.out, ignore_errors=True)

    def _inputs(self, draft: Draft) -> Iterator[Path]:
        """The folders of what an artifact is made from, as far as they are here."""
        for ref in draft.manifest["inputs"].values():
            if (folder := self.folder(ref["stage"], ref["key"])).is_dir():
                yield folder

    def _publish(self, made: Path, stage: str, key: str) -> None:
        """Gives a sealed folder its name, uploads it, and then removes what had the name before."""
        folder = self.folder(stage, key)
        before = folder.with_name(f"{key}.discarded-{uuid.uuid4().hex}")
        if folder.exists():
            folder.rename(before)
        try:
            made.rename(folder)
        except BaseException:
            if before.exists():
                before.rename(folder)
            raise
        sync(folder.parent)
        self.uploads.push(stage, key)
        shutil.rmtree(before, ignore_errors=True)

    def upload(self, ref: Ref) -> None:
        """Sees that the remote has an artifact of this machine: it may be gone there, or was never uploaded.

        Raises:
            UserError: the remote does not take it.
        """
        if self.remote and self.uploads.there(ref.stage, ref.key) != ref.digest:
            with self.lock(ref.stage, ref.key):
                self.uploads.push(ref.stage, ref.key)

    def push_pending(self) -> list[str]:
        """Uploads the records and artifacts whose upload failed or was cut short in an earlier run; their names.

        Raises:
            UserError: the remote still does not take the artifacts.
        """
        done = self.shared.push_pending()
        for stage, key in self.uploads.noted():
            try:
                with self.lock(stage, key).at_once():
                    folder = self.folder(stage, key)
                    if folder.exists() and self.uploads.is_due(stage, key, self.whole(folder)):
                        self.uploads.push(stage, key)
                        done.append(f"{stage}/{key}")
                    self.uploads.forget(stage, key)  # another machine has made it, or it was pruned here
                    for before in folder.parent.glob(f"{key}.discarded-*"):
                        shutil.rmtree(before, ignore_errors=True)
            except Timeout:  # another run makes or uploads it now
                continue
        return done

    def whole(self, folder: Path) -> str:
        """The digest of an artifact on this machine; "" where its manifest or a file of its own is damaged."""
        try:
            manifest = self._verifier.manifest(folder)
            self._verifier.check([claim(folder, manifest, None)])
        except Damaged as damage:
            logger.warning("%s", damage)
            return ""
        return manifest["digest"]

    def manifests(self, stage: str) -> list[Manifest]:
        """The whole manifests of a stage's artifacts, latest first. One that is damaged is named in the log."""
        found = []
        for folder in (self.root / stage).glob("*/"):
            if "." not in folder.name:
                try:
                    found.append(self._verifier.manifest(folder))
                except Damaged as damage:  # whoever wants this artifact makes it again
                    logger.warning("%s", damage)
        return sorted(found, key=lambda m: m["made"], reverse=True)

    def manifest(self, stage: str, key: str) -> Manifest | None:
        """The manifest of an artifact, wherever it is; its files are not looked at. One that is damaged is None."""
        folder = self.folder(stage, key)
        try:
            if folder.exists():
                return self._verifier.manifest(folder)
        except Damaged as damage:
            logger.warning("%s", damage)
            return None
        return self.remote.manifest(f"{stage}/{key}")[0] if self.remote else None

    def accept(self, stage: str, key: str, instead: str, why: str, who: str) -> Path:
        """Records that the artifact `instead` stands for `key` from now on."""
        path = self.root / "accepted" / stage / key
        self.record(path, {"key": instead, "why": why, "who": who, "when": time.time()})
        return path

    def _open(self, folder: Path, part: int | None = None, name: str | None = None) -> Artifact:
        """An artifact on this machine. Its files and those of its shards are verified in one go.

        Args:
            folder: its own.
            part: the only one that is wanted.
            name: <stage>/<key> of a folder that is not called so yet.
        """
        manifest = self._verifier.manifest(folder, name)
        claims = [claim(folder, manifest, part)]
        for shard in shards(manifest, part).values():
            if (there := self.folder(shard.stage, shard.key)).exists():
                claims.append(claim(there, self._verifier.manifest(there), None))
        self._verifier.check(claims)
        with suppress(OSError):  # of a store that is only read; nobody prunes it either
            os.utime(folder)  # in use: `sif prune` lets it be
        return self._artifact(folder, manifest, part)

    def _artifact(
        self, folder: Path, manifest: Manifest, part: int | None, fetch: Callable[[], None] | None = None
    ) -> Artifact:
        name = f"{manifest['stage']}/{manifest['key']}"
        if external := manifest.get("external"):
            path = Path(external["path"])
            if not path.exists() or self.digests.tree(path) != external["digest"]:
                raise Damaged(f"{name}: {path} is gone or was changed")
        opened = {number: self.open(shard) for number, shard in shards(manifest, part).items()}
        ref = Ref(stage=manifest["stage"], key=manifest["key"], digest=manifest["digest"])
        return Artifact(ref, folder, manifest, opened, fetch)
