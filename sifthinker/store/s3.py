"""A store's copy on S3-compatible storage, so that every machine finds what another one made.

    s3://<bucket>/<prefix>/<stage>/<key>/...   an artifact's files; manifest.json is put last and means "done"
    s3://<bucket>/<prefix>/<stage>/<key>.lock  held while it is made, anywhere
    s3://<bucket>/<prefix>/runs/ aliases/ ...  records

The folder of the store stays where stages work; it is a cache of this. An upload that was killed has no manifest and
is nothing. The manifest here holds the ETag of every object besides: a lookup compares names, sizes and ETags of one
listing and downloads nothing; a download is held to the sha256 of the manifest. S3 itself checks what it receives
(boto3 sends a CRC with every part).

boto3 because the lock needs conditional writes (If-None-Match, If-Match), which pyarrow's file system does not have,
and because it reads credentials and addresses as every S3 tool does: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or a
role, AWS_ENDPOINT_URL_S3 for other servers than Amazon's. Nothing of that is ever in a configuration.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sifthinker.core.errors import UserError
from sifthinker.store.manifest import MANIFEST, Manifest, read_manifest

logger = logging.getLogger(__name__)
_dropped: ContextVar[threading.Event | None] = ContextVar("dropped", default=None)
EXPIRY = 120.0  # seconds without a beat after which a lock's holder is dead
BEAT = 20.0
POLL = 5.0
SMALL = 8 << 20  # bytes up to which a file is one request; boto3 divides a larger one
AT_ONCE = 8  # files of an artifact under way
TRIES = 4  # of a small object whose connection breaks; boto3 itself tries only until the first byte has come


@dataclass(frozen=True)
class Stored:
    """An object as a listing has it."""

    size: int
    etag: str
    modified: float  # seconds since 1970, the server's clock


class Remote:
    """A bucket, or a prefix of one, that holds a store's artifacts, records and locks."""

    def __init__(self, url: str) -> None:
        """Connects to nothing yet.

        Args:
            url: s3://bucket or s3://bucket/prefix.

        Raises:
            UserError: it has another form.
        """
        scheme, _, path = url.partition("://")
        self.bucket, _, prefix = path.strip("/").partition("/")
        if scheme != "s3" or not self.bucket:
            raise UserError(f"remote: {url}: write s3://bucket/prefix")
        self.url, self.prefix = url.rstrip("/"), f"{prefix}/" if prefix else ""

    @cached_property
    def client(self) -> Any:
        """The client of boto3, made when it is first needed."""
        import boto3
        from botocore.config import Config

        with self._explained("reach"):
            return boto3.client(
                "s3",
                config=Config(
                    retries={"mode": "standard", "max_attempts": 4},
                    connect_timeout=10,
                    read_timeout=60,
                    max_pool_connections=4 * AT_ONCE,
                ),
            )

    def list(self, under: str) -> dict[str, Stored]:
        """All objects below a folder, by their names below it."""
        prefix = f"{self.prefix}{under}/" if under else self.prefix
        with self._explained("list"):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
            return {
                entry["Key"].removeprefix(prefix): Stored(
                    entry["Size"], entry["ETag"].strip('"'), entry["LastModified"].timestamp()
                )
                for page in pages
                for entry in page.get("Contents", ())
            }

    def read(self, name: str) -> bytes | None:
        """The bytes of a small object; None where there is none."""
        from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

        with self._explained("read"):
            for left in reversed(range(TRIES)):
                try:
                    body: bytes = self.client.get_object(Bucket=self.bucket, Key=self.prefix + name)[
                        "Body"
                    ].read()
                    return body
                except self.client.exceptions.NoSuchKey:
                    return None
                except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError) as error:
                    if not left:
                        raise
                    logger.warning("%s is read again: %s", name, error)
        raise AssertionError("the last try returns or raises")

    def write(self, name: str, body: bytes, **condition: str) -> str:
        """Puts a small object; returns its ETag."""
        with self._explained("write"):
            put = self.client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=body, **condition)
            return str(put["ETag"]).strip('"')

    def delete(self, name: str, **condition: str) -> None:
        """Removes an object."""
        with self._explained("delete"):
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + name, **condition)

    def download(self, name: str, to: Path, size: int | None = None) -> None:
        """Writes an object to a file, and makes the file's folder where there is none.

        Args:
            name: of the object.
            to: the file.
            size: of the object, where it is known: a small one takes one request.

        Raises:
            UserError: it is not there, or the server does not answer.
        """
        to.parent.mkdir(parents=True, exist_ok=True)
        if size is None or size > SMALL:
            with self._explained("download"):
                self.client.download_file(
                    self.bucket, self.prefix + name, str(to), Callback=_unless_dropped()
                )
            return
        body = self.read(name)
        if body is None:
            raise UserError(self._advice("download", f"{name} is gone"))
        to.write_bytes(body)

    def upload(self, file: Path, name: str) -> None:
        """Puts a file under a name."""
        with self._explained("upload"):
            if file.stat().st_size > SMALL:
                self.client.upload_file(
                    str(file), self.bucket, self.prefix + name, Callback=_unless_dropped()
                )
            else:
                self.client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=file.read_bytes())

    def push(self, folder: Path, place: str) -> None:
        """Uploads an artifact's files, and its manifest last; `place`: <stage>/<key>."""
        self.remove(place)  # what is there of an earlier one: its manifest goes first
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        together(lambda name: self.upload(folder / name, f"{place}/{name}"), manifest["files"])
        there = self.list(place)
        for name, entry in manifest["files"].items():
            if name not in there or there[name].size != entry["size"]:
                raise UserError(
                    f"{self.url}/{place}/{name}: is not what was uploaded; is another run writing there?"
                )
        etags = {name: there[name].etag for name in manifest["files"]}
        self.write(f"{place}/{MANIFEST}", json.dumps({**manifest, "etags": etags}).encode())

    def remove(self, place: str) -> None:
        """Removes an artifact, its manifest first: without it, the rest is nothing."""
        names = self.list(place)
        for name in sorted(names, key=lambda name: name != MANIFEST):
            self.delete(f"{place}/{name}")

    def manifest(self, place: str) -> tuple[Manifest | None, str]:
        """The manifest of a whole artifact, or None; and what is wrong with one that is damaged."""
        body = self.read(f"{place}/{MANIFEST}")
        if body is None:
            return None, ""
        try:
            manifest = read_manifest(body)
            files, etags = manifest["files"], manifest["etags"]
        except (ValueError, KeyError) as error:
            return None, f"{self.url}/{place}: {MANIFEST} cannot be read: {error}"
        if (says := f"{manifest['stage']}/{manifest['key']}") != place:
            return None, f"{self.url}/{place}: {MANIFEST} is that of {says}"
        there = self.list(place)
        for name, entry in files.items():
            found = there.get(name)
            if found is None:
                return None, f"{self.url}/{place}: {name} is missing"
            if (found.size, found.etag) != (entry["size"], etags[name]):
                return None, f"{self.url}/{place}: {name} was changed: its size or ETag differs"
        return manifest, ""

    def lock(self, name: str, by: str = "") -> RemoteLock:
        """The lock of a name, not taken yet; `by`: who would hold it."""
        return RemoteLock(self, name, by)

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in ("PreconditionFailed", "ConditionalRequestConflict", "NotImplemented", "NoSuchKey"):
                raise
            raise UserError(self._advice(what, f"{code}: {error}")) from error
        except (BotoCoreError, Boto3Error) as error:
            raise UserError(self._advice(what, str(error))) from error

    def _advice(self, what: str, error: str) -> str:
        return (
            f"store {self.url}: cannot {what}: {error}. Check AWS_ENDPOINT_URL_S3, the bucket and its rights, and the "
            "credentials in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY); what was made so far is kept"
        )


def together(work: Callable[[str], None], names: Iterable[str]) -> None:
    """Does the same with several names at once. Where one fails, or this process is told to end, the others are dropped.

    Raises: what the first failing one raises.
    """
    dropped = threading.Event()

    def one(name: str) -> None:
        _dropped.set(dropped)  # of this thread
        work(name)

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="s3") as threads:
        try:
            for _ in threads.map(one, names):
                pass
        except BaseException:
            dropped.set()  # else leaving the block waits for gigabytes that nobody wants
            raise


def _unless_dropped() -> Callable[[int], None]:
    """What boto3 calls, in threads of its own, with each piece of a large file: it ends the transfer by an exception."""
    dropped = _dropped.get()

    def check(_: int) -> None:
        if dropped is not None and dropped.is_set():
            raise _Dropped("another file failed, or the process was told to end")

    return check


class _Dropped(Exception):
    """The transfer is not wanted any more."""


class RemoteLock:
    """A lock on an object: made by a conditional put, kept alive by a thread, taken over when its holder died."""

    def __init__(self, remote: Remote, name: str, by: str = "") -> None:
        """Takes nothing yet."""
        self.remote, self.name, self.by = remote, name, by
        self._etag = ""
        self._kept = 0.0  # when the server last took a beat, by the monotonic clock
        self._released = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> bool:
        """Whether it is ours now."""
        from botocore.exceptions import ClientError

        try:
            condition = {"IfNoneMatch": "*"}
            if stale := self._stale():
                condition = {"IfMatch": stale}
            self._etag = self.remote.write(self.name, self._body(), **condition)
        except ClientError as error:
            if error.response["Error"]["Code"] != "NotImplemented":
                return False
            logger.warning(
                "%s has no conditional writes: machines may make the same artifact twice", self.remote.url
            )
            return True
        self._kept = time.monotonic()
        self._released.clear()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()
        return True

    def wait(self) -> None:
        """Takes the lock as soon as nobody else has it."""
        while not self.take():
            time.sleep(POLL)

    def check(self) -> None:
        """Whether it is still ours, where it was taken.

        Raises:
            UserError: another machine has taken it over, or may have, because the server took no beat for too long.
        """
        if self._thread is None or (self._etag and time.monotonic() - self._kept < EXPIRY):
            return
        raise UserError(
            f"{self.remote.url}/{self.name}: this run lost its lock, and another machine may be making the same: the "
            f"server took no beat for {EXPIRY:.0f} s. Nothing was published; run again, and what is there is taken"
        )

    def release(self) -> None:
        """Gives the lock back, unless another machine has taken it over."""
        self._released.set()
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        if self._etag and self._here() == self._etag:  # asked first: not every server obeys If-Match here
            self._remove(self._etag)

    def free(self, dead: Collection[str]) -> bool:
        """Removes it where one of those holds it who are known to be dead. One that lives after all has lost it.

        Returns:
            Whether it was removed.
        """
        etag, body = self._here(), self.remote.read(self.name)
        if not etag or not body or json.loads(body).get("by") not in dead:
            return False
        return self._remove(etag)

    def _remove(self, etag: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            self.remote.delete(self.name, IfMatch=etag)
        except ClientError as error:
            if error.response["Error"]["Code"] != "NotImplemented":
                return False  # it was taken over, or beat, in between
            self.remote.delete(self.name)
        return True

    def _here(self) -> str:
        """The ETag of the lock on the server; "" where there is none."""
        head = self._head()
        return str(head["ETag"]).strip('"') if head else ""

    def _head(self) -> Any:
        from botocore.exceptions import ClientError

        try:
            return self.remote.client.head_object(
                Bucket=self.remote.bucket, Key=self.remote.prefix + self.name
            )
        except ClientError:
            return None

    def _stale(self) -> str:
        """The ETag of a lock whose holder has not beaten for long, by the server's own clock."""
        from email.utils import parsedate_to_datetime

        if (head := self._head()) is None:
            return ""
        now = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])
        dead = (now - head["LastModified"]).total_seconds() > EXPIRY
        return str(head["ETag"]).strip('"') if dead else ""

    def _body(self) -> bytes:
        import socket

        return json.dumps({"host": socket.gethostname(), "by": self.by, "id": uuid.uuid4().hex}).encode()

    def _beat(self) -> None:
        from botocore.exceptions import ClientError

        while not self._released.wait(BEAT):
            try:
                self._etag = self.remote.write(self.name, self._body(), IfMatch=self._etag)
                self._kept = time.monotonic()
            except ClientError:  # taken over: another machine thought us dead
                logger.warning("%s/%s was taken over by another run", self.remote.url, self.name)
                self._etag = ""
                return
            except UserError as error:
                logger.warning("%s", error)
