"""The lock of a name on a store's remote, which all machines see.

It is an object: made by a conditional put, kept alive by the beats of a thread, and taken over where its holder has not beaten
for long. The object says who holds it (`by`), and by an id which lock of theirs it is.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from sifthinker.core.errors import UserError

if TYPE_CHECKING:
    from sifthinker.store.s3 import Remote

logger = logging.getLogger(__name__)
EXPIRY = 120.0  # seconds without a beat after which a lock's holder is dead
BEAT = 20.0
POLL = 5.0


class RemoteLock:
    """A lock on an object. Each time that it is taken it has another id."""

    def __init__(self, remote: Remote, name: str, by: str = "") -> None:
        """Takes nothing yet."""
        self.remote, self.name, self.by = remote, name, by
        self._id, self._beats = "", 0
        self._etag = ""  # of the object, as we wrote it last; "" when another run has taken it over
        self._kept = 0.0  # when the server last took a beat, by the monotonic clock
        self._released = threading.Event()
        self._thread: threading.Thread | None = None
        self._turn = threading.Lock()  # one beat at a time

    def take(self) -> bool:
        """Whether it is ours now."""
        from botocore.exceptions import ClientError

        self._id = uuid.uuid4().hex
        try:
            condition = {"IfNoneMatch": "*"}
            if stale := self._stale():
                condition = {"IfMatch": stale}
            self._etag = self.remote.write(self.name, self._body(), **condition)
        except ClientError as error:
            if error.response["Error"]["Code"] == "NotImplemented":
                logger.warning(
                    "%s has no conditional writes: machines may make the same artifact twice", self.remote.url
                )
                return True
            there = self._ours()
            if there is None:
                return False
            self._etag = there[1]
        self._kept = time.monotonic()
        self._released.clear()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()
        return True

    def wait(self) -> None:
        """Takes the lock as soon as nobody else has it."""
        while not self.take():
            time.sleep(POLL)

    def check(self, strict: bool = True) -> None:
        """Whether it is still ours, where it was taken.

        While a server is away nobody knows. Work goes on then: the first beat after it renews the lock, or finds it taken.

        Args:
            strict: it must be ours for certain. One that is not renewed for long is renewed now.

        Raises:
            UserError: another machine has taken it over, or strictly may have: the server took no beat for too long.
        """
        if self._thread is None:
            return
        why = f"the server took no beat for {EXPIRY:.0f} s"
        if strict and self._old:
            try:
                self._beat_once()
            except UserError as error:
                why = f"{why}, and now: {error}"
        if self._etag and not (strict and self._old):
            return
        raise UserError(
            f"{self.remote.url}/{self.name}: this run lost its lock, and another machine may be making the same: {why}. "
            "Nothing was published; run again, and what is there is taken"
        )

    @property
    def _old(self) -> bool:
        return time.monotonic() - self._kept >= EXPIRY

    def release(self) -> None:
        """Gives the lock back, unless another machine has taken it over. Without an answer of the server it ends by itself."""
        self._released.set()
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        try:
            if self._etag and (there := self._ours()):  # asked first: not every server obeys If-Match here
                self._remove(there[1])
        except UserError as error:  # what it was for is done
            logger.warning("%s is not given back, and ends in %.0f s: %s", self.name, EXPIRY, error)

    def free(self, dead: Collection[str]) -> bool:
        """Removes it where one of those holds it who are known to be dead. One that lives after all has lost it.

        Returns:
            Whether it was removed.
        """
        there = self.remote.look(self.name)
        if there is None or _said(there[0]).get("by") not in dead:
            return False
        return self._remove(there[1])

    def _remove(self, etag: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            self.remote.delete(self.name, IfMatch=etag)
        except ClientError as error:
            if error.response["Error"]["Code"] != "NotImplemented":
                return False  # it was taken over, or beat, in between
            self.remote.delete(self.name)
        return True

    def _ours(self) -> tuple[bytes, str] | None:
        """The object and its ETag where it is the one that we wrote; None where it is gone or another's.

        A server may take a write whose answer is lost. botocore sends that again, and it is refused: the first one has made or
        changed the object. So what is refused is looked up before it counts as taken by somebody else.
        """
        there = self.remote.look(self.name)
        return there if there and _said(there[0]).get("id") == self._id else None

    def _stale(self) -> str:
        """The ETag of a lock whose holder has not beaten for long, by the server's own clock."""
        from email.utils import parsedate_to_datetime

        if (head := self.remote.head(self.name)) is None:
            return ""
        now = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])
        dead = (now - head["LastModified"]).total_seconds() > EXPIRY
        return str(head["ETag"]).strip('"') if dead else ""

    def _body(self) -> bytes:
        """Another one each time, so that each beat changes the ETag."""
        import socket

        self._beats += 1
        said = {"host": socket.gethostname(), "by": self.by, "id": self._id, "beat": self._beats}
        return json.dumps(said).encode()

    def _beat(self) -> None:
        while self._etag and not self._released.wait(BEAT):
            try:
                self._beat_once()
            except UserError as error:
                logger.warning("%s", error)

    def _beat_once(self) -> None:
        with self._turn:
            if self._etag and not self._renew():
                logger.warning("%s/%s was taken over by another run", self.remote.url, self.name)
                self._etag = ""

    def _renew(self) -> bool:
        """Sends a beat; False where another machine thought us dead, and has taken the lock over.

        Raises:
            UserError: the server does not answer.
        """
        from botocore.exceptions import ClientError

        for _ in range(2):
            body = self._body()
            try:
                self._etag = self.remote.write(self.name, body, IfMatch=self._etag)
            except ClientError:
                there = self._ours()
                if there is None:
                    return False
                self._etag = there[1]
                if there[0] != body:  # an earlier beat, whose answer was lost: once more, on top of it
                    continue
            self._kept = time.monotonic()
            return True
        return True  # ours, but the server took no beat: the next one comes soon enough


def _said(body: bytes) -> dict[str, Any]:
    """What the object of a lock says; nothing where it is none of ours."""
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
