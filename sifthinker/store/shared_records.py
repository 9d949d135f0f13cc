"""Records and pages that machines with one remote tell each other, and word of what is still to be sent.

    <root>/runs aliases accepted history   records: what every machine needs to know
    <root>/nights comparisons              pages: for machines at which people look
    <root>/unsent/<path>.json              the file of this path is being sent, or could not be sent

A file that was sent or fetched has the server's time of the object as its own time. So whether another machine has written since
is a comparison of two times of one clock, the server's.

Word is left before a file is written. It has the server's time of what the file replaces. A later run tells apart what it finds on
the remote: nothing, or nothing newer than that, means that the file is still to be sent. Anything else was written by
another machine since, and stays.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sifthinker.core.errors import UserError
from sifthinker.store.s3 import Remote, Stored, together
from sifthinker.system.files import write_json

logger = logging.getLogger(__name__)
RECORDS = ("runs", "aliases", "accepted", "history")
PAGES = ("nights", "comparisons")
SHARED = (*RECORDS, *PAGES)
UNSENT = "unsent"
GRAIN = 0.001  # seconds by which equal times differ after a way through floats


class SharedRecords:
    """The records and pages of a store. Without a remote there is nobody to share them with."""

    def __init__(self, root: Path, remote: Remote | None) -> None:
        """Looks at nothing yet."""
        self.root, self.remote = root, remote
        self._lock = root / f"{UNSENT}.lock"  # one process writes and sends at a time

    @contextmanager
    def sharing(self, *paths: Path, strict: bool = True) -> Iterator[None]:
        """Sends files that the block writes.

        Args:
            *paths: of the files.
            strict: what cannot be sent is an error. Otherwise it is a warning, and the next run of this store sends it.

        Raises:
            UserError: strictly, the remote does not take one of them. It is kept here, and the next run sends it.
        """
        if self.remote is None:
            yield
            return
        with FileLock(self._lock):
            for path in paths:
                self._note(path)
            yield
            try:
                for path in paths:
                    self._send(path)
            except UserError as error:
                if strict:
                    raise
                names = ", ".join(map(self._name, paths))
                logger.warning("not shared yet, and sent by the next run of this store: %s: %s", names, error)

    def pull(self, kinds: Iterable[str]) -> None:
        """Sends what could not be sent earlier, and fetches what other machines have written.

        Args:
            kinds: of `SHARED`.

        Raises:
            UserError: the remote cannot be read. What it does not take is a warning.
        """
        for kind in kinds if self.remote else ():
            assert self.remote
            there = self.remote.list(kind)
            self._make_up(kind, there)
            self._fetch(kind, there)

    def push_pending(self) -> list[str]:
        """Sends what could not be sent earlier; the names of what was sent. What the remote does not take is a warning.

        Raises:
            UserError: the remote cannot be read.
        """
        done = []
        for kind in SHARED if self.remote else ():
            assert self.remote
            if any(self._unsent(kind)):
                done += self._make_up(kind, self.remote.list(kind))
        return done

    def _fetch(self, kind: str, there: Mapping[str, Stored]) -> None:
        remote = self.remote
        assert remote

        def download(name: str) -> None:
            path = self.root / kind / name
            temporary = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex}")
            try:
                remote.download(f"{kind}/{name}", temporary, there[name].size)
                _set_time(temporary, there[name].modified)
                if not self._word(path).exists():  # else this machine has written it meanwhile
                    temporary.rename(path)
            finally:
                temporary.unlink(missing_ok=True)

        together(download, [name for name in there if self._is_older(self.root / kind / name, there[name])])

    def _is_older(self, path: Path, there: Stored) -> bool:
        """Whether this machine lacks a file, or has it from before another machine wrote it."""
        try:
            here = path.stat()
        except FileNotFoundError:
            return True
        if self._word(path).exists():
            return False
        # Some servers count whole seconds: two machines may write in the same one.
        same = abs(here.st_mtime - there.modified) <= GRAIN
        return here.st_size != there.size if same else here.st_mtime < there.modified

    def _make_up(self, kind: str, there: Mapping[str, Stored]) -> list[str]:
        """Sends the files of a kind that there is word of, as far as they are due; the names of those that were sent."""
        done: list[str] = []
        if not any(self._unsent(kind)):
            return done
        try:
            with FileLock(self._lock, timeout=0):
                for path in self._unsent(kind):
                    if self._is_due(path, there.get(path.relative_to(self.root / kind).as_posix())):
                        self._send(path)
                        done.append(self._name(path))
        except Timeout:  # another process sends its own now; a later look finds what is left
            pass
        except UserError as error:  # the others wait too: each try at a server that is away takes long
            logger.warning("records of this machine cannot be shared yet: %s", error)
        return done

    def _is_due(self, path: Path, there: Stored | None) -> bool:
        """Whether a file that there is word of is to be sent; if not, the word goes."""
        assert self.remote
        word = self._word(path)
        try:
            said = json.loads(word.read_text(encoding="utf-8"))
            ours = {*said["sent"], _digest(path)}
        except FileNotFoundError:  # the file was pruned, or another process has just sent it
            word.unlink(missing_ok=True)
            return False
        if there is None or there.modified <= said["replaces"] + GRAIN:
            return True
        found = self.remote.read(self._name(path))
        # One of ours: the server took it, and its answer was lost.
        if found is None or sha256(found).hexdigest() in ours:
            return True
        logger.warning(
            "%s: another machine has written it since this one, and theirs stays; look whether yours is still wanted",
            self._name(path),
        )
        _set_time(path, 0.0)  # the next look fetches theirs
        word.unlink(missing_ok=True)
        return False

    def _send(self, path: Path) -> None:
        """Uploads a file, and notes that this is done."""
        assert self.remote
        name, digest, sent = self._name(path), "", ""
        while digest != (digest := _digest(path)):  # once more where another process has written it meanwhile
            try:
                sent = self.remote.upload(path, name)
                there = self.remote.stored(name)
            except UserError:
                self._note(path, digest)
                raise
        if there:
            overwritten = sent not in ("", there.etag)  # by another machine, at once
            _set_time(path, 0.0 if overwritten else there.modified)
        self._word(path).unlink(missing_ok=True)

    def _note(self, path: Path, sent: str = "") -> None:
        """Leaves word that a file is to be sent; what there is of it stays.

        Args:
            path: of the file.
            sent: the digest of what the server may have taken.
        """
        word = self._word(path)
        try:
            said: dict[str, Any] = json.loads(word.read_text(encoding="utf-8"))
            if not sent:
                return
        except FileNotFoundError:
            replaces = path.stat().st_mtime if path.exists() else 0.0
            said = {"since": time.time(), "replaces": replaces, "sent": []}
        write_json(word, {**said, "sent": [*said["sent"], *([sent] if sent else [])]})

    def _unsent(self, kind: str) -> Iterator[Path]:
        """The files of a kind that there is word of."""
        for word in sorted((self.root / UNSENT / kind).rglob("*.json")):
            yield self.root / word.relative_to(self.root / UNSENT).with_suffix("")

    def _word(self, path: Path) -> Path:
        return self.root / UNSENT / f"{self._name(path)}.json"

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _set_time(path: Path, when: float) -> None:
    with suppress(OSError):  # of another user, or gone by now
        os.utime(path, (when, when))
