"""A store's copy on S3-compatible storage, so that every machine finds what another one made.

    s3://<bucket>/<prefix>/<stage>/<key>/...   an artifact's files; manifest.json is put last and means "done"
    s3://<bucket>/<prefix>/<stage>/<key>/upload-<id>/...   the files of one that has replaced another; its manifest names the folder
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
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sifthinker.core.errors import UserError
from sifthinker.store.manifest import MANIFEST, Manifest, object_of, read_manifest
from sifthinker.store.remote_lock import RemoteLock

logger = logging.getLogger(__name__)
_dropped: ContextVar[threading.Event | None] = ContextVar("dropped", default=None)
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
                entry["Key"].removeprefix(prefix): _stored(entry)
                for page in pages
                for entry in page.get("Contents", ())
            }

    def stored(self, name: str) -> Stored | None:
        """An object as a listing has it: its time may be finer than the one that the object itself is served with."""
        with self._explained("list"):
            key = self.prefix + name
            found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=key, MaxKeys=1).get("Contents", ())
            return _stored(found[0]) if found and found[0]["Key"] == key else None

    def read(self, name: str) -> bytes | None:
        """The bytes of a small object; None where there is none."""
        found = self.look(name)
        return found[0] if found else None

    def look(self, name: str) -> tuple[bytes, str] | None:
        """The same, with its ETag."""
        from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

        with self._explained("read"):
            for left in reversed(range(TRIES)):
                try:
                    got = self.client.get_object(Bucket=self.bucket, Key=self.prefix + name)
                    return got["Body"].read(), str(got["ETag"]).strip('"')
                except self.client.exceptions.NoSuchKey:
                    return None
                except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError) as error:
                    if not left:
                        raise
                    logger.warning("%s is read again: %s", name, error)
        raise AssertionError("the last try returns or raises")

    def head(self, name: str) -> Any:
        """What the server says of an object, with its headers; None where there is none."""
        from botocore.exceptions import ClientError

        with self._explained("look up"):
            try:
                return self.client.head_object(Bucket=self.bucket, Key=self.prefix + name)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                    raise
                return None

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

    def upload(self, file: Path, name: str) -> str:
        """Puts a file under a name; returns the ETag of a small one, "" for a large one."""
        with self._explained("upload"):
            if file.stat().st_size > SMALL:
                self.client.upload_file(
                    str(file), self.bucket, self.prefix + name, Callback=_unless_dropped()
                )
                return ""
            body = file.read_bytes()
            put = self.client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=body)
            return str(put["ETag"]).strip('"')

    def push(self, folder: Path, place: str) -> None:
        """Uploads an artifact's files, then its manifest; only then does what was there before go.

        What is there stays whole until the new manifest is written: the new objects lie in a folder of their own. A killed upload
        leaves objects that no manifest names, which `sif prune` removes. Where the remote has the same content, nothing is sent.

        Args:
            folder: of the artifact.
            place: <stage>/<key>.
        """
        made = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        before = self.list(place)
        if MANIFEST in before:
            there, _ = self.manifest(place)
            if there and there["digest"] == made["digest"]:
                return
        manifest = {name: value for name, value in made.items() if name not in ("etags", "upload")}
        if before:  # else beside the manifest, where earlier versions of this program look, too
            manifest["upload"] = f"upload-{uuid.uuid4().hex}"
        objects = {object_of(manifest, name): name for name in manifest["files"]}  # type: ignore[arg-type]
        together(lambda name: self.upload(folder / objects[name], f"{place}/{name}"), objects)
        now = self.list(place)
        for name, file in objects.items():
            if name not in now or now[name].size != manifest["files"][file]["size"]:
                raise UserError(
                    f"{self.url}/{place}/{name}: is not what was uploaded; is another run writing there?"
                )
        manifest["etags"] = {file: now[name].etag for name, file in objects.items()}
        self.write(f"{place}/{MANIFEST}", json.dumps(manifest).encode())
        self._clear(place, before.keys() - objects.keys() - {MANIFEST})

    def _clear(self, place: str, names: Iterable[str]) -> None:
        """Removes objects of before. What cannot be removed does no harm, and is left to `sif prune`."""
        try:
            for name in names:
                self.delete(f"{place}/{name}")
        except UserError as error:
            logger.warning(
                "%s: objects of its earlier content are left; `sif prune` removes them: %s", place, error
            )

    def remove(self, place: str) -> None:
        """Removes an artifact, its manifest first: without it, the rest is nothing."""
        names = self.list(place)
        for name in sorted(names, key=lambda name: name != MANIFEST):
            self.delete(f"{place}/{name}")

    def manifest(self, place: str) -> tuple[Manifest | None, str]:
        """The manifest of a whole artifact, or None; and what is wrong with one that is damaged."""
        body = self.read(f"{place}/{MANIFEST}")
        while body is not None:
            manifest, damage = self._checked(place, body)
            if not damage or (now := self.read(f"{place}/{MANIFEST}")) == body:
                return manifest, damage
            body = now  # it was replaced between the two looks
        return None, ""

    def _checked(self, place: str, body: bytes) -> tuple[Manifest | None, str]:
        """Holds what is in a place against the manifest there."""
        try:
            manifest = read_manifest(body)
            files, etags = manifest["files"], manifest["etags"]
        except (ValueError, KeyError) as error:
            return None, f"{self.url}/{place}: {MANIFEST} cannot be read: {error}"
        if (says := f"{manifest['stage']}/{manifest['key']}") != place:
            return None, f"{self.url}/{place}: {MANIFEST} is that of {says}"
        there = self.list(place)
        for name, entry in files.items():
            found = there.get(object_of(manifest, name))
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


def _stored(entry: Mapping[str, Any]) -> Stored:
    return Stored(entry["Size"], entry["ETag"].strip('"'), entry["LastModified"].timestamp())


def together(work: Callable[[str], object], names: Iterable[str]) -> None:
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
