"""What an artifact is: its reference, its manifest, how it is read (`Artifact`), and how it is made (`Draft`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NotRequired

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from sifthinker.store.digests import sha256

MANIFEST = "manifest.json"  # of an artifact, in its folder
DATA = "data"  # folder of the parts of a table that people open too
UNSUMMED = ("checksum", "etags", "upload")  # what of a manifest its checksum does not cover


class Ref(BaseModel):
    """Names an artifact and holds no data: this is what passes between tasks."""

    model_config = ConfigDict(frozen=True)

    stage: str = Field(description="folder of the store")
    key: str = Field(description="of what it was made from")
    digest: str = Field(description="of the content; equal content made from other inputs has an equal one")


class Damaged(Exception):
    """An artifact that is not what its manifest says. The message says what differs."""


# As they are in JSON: keys `in`, `kept`, `rejected` (rows by reason).
Rows = TypedDict("Rows", {"in": int, "kept": int, "rejected": dict[str, int]})


class File(TypedDict):
    """A file of an artifact: its size in bytes and the sha256 of its content."""

    size: int
    sha256: str


class External(TypedDict):
    """A folder outside the store that holds an artifact's data: a user's weights."""

    path: str
    digest: str


class RefFields(TypedDict):
    """A `Ref` as it is in JSON."""

    stage: str
    key: str
    digest: str


class Manifest(TypedDict):
    """The content of `manifest.json`."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    stage: str
    key: str
    label: str  # of the stage in its flow: "merge-sft"
    name: str  # of the configuration
    identity: dict[str, Any]  # what the key is the digest of; see tasks/runtime/identity.py
    inputs: dict[str, RefFields]
    versions: dict[str, str]  # of Python and of libraries, for people
    digest: str  # of the content
    files: dict[str, File]  # by their path below the folder
    shards: list[RefFields]
    rows: Rows
    external: NotRequired[External]
    notes: dict[str, Any]  # what the stage has to say, by name
    made: float  # when its making began, in seconds since 1970
    seconds: float  # that the making took
    etags: NotRequired[dict[str, str]]  # on a remote: of each object
    upload: NotRequired[str]  # on a remote: the folder of the objects; else they lie beside the manifest
    checksum: NotRequired[str]  # of the rest but what a remote adds; older manifests have none


def sealed(fields: Mapping[str, Any]) -> Manifest:
    """A manifest with its checksum.

    Args:
        fields: all others. A checksum among them is replaced.
    """
    given: Manifest = json.loads(json.dumps(dict(fields)))  # as it will be read: texts as keys, lists
    return {**given, "checksum": _checksum(given)}


def read_manifest(text: str | bytes) -> Manifest:
    """A manifest from its JSON.

    Raises:
        ValueError: it is no JSON, lacks a field, has one of another kind, or is not what was written. The message says
            which.
    """
    try:
        value: Manifest = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    try:
        _form().validate_python(value)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from error
    if value.get("checksum", _checksum(value)) != _checksum(value):
        raise ValueError("it was changed: its checksum differs")
    return value


def object_of(manifest: Manifest, name: str) -> str:
    """Where a file of an artifact is on a remote, below the artifact's own place."""
    return f"{manifest['upload']}/{name}" if "upload" in manifest else name


def of_part(manifest: Manifest, part: int) -> list[str]:
    """The files of an artifact that are of one part of its tables."""
    return [name for name in manifest["files"] if name.endswith(f"-{part:05}.parquet")]


def shards(manifest: Manifest, part: int | None) -> dict[int, Ref]:
    """The shards of an artifact by their number: all, or the one of a part."""
    refs = manifest["shards"]
    wanted = range(len(refs)) if part is None else range(part, min(part + 1, len(refs)))
    return {number: Ref(**refs[number]) for number in wanted}


def first_fault(error: ValidationError) -> str:
    """The first thing that is wrong with a record, in a line: which field, and why."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else first["msg"]


@cache
def _form() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


def _checksum(manifest: Mapping[str, Any]) -> str:
    return sha256({name: value for name, value in manifest.items() if name not in UNSUMMED})


@dataclass(frozen=True)
class Artifact:
    """An artifact in a store, opened for reading.

    Attributes:
        ref: names it.
        place: its folder, which may not be on this machine yet.
        manifest: what it says about itself.
        shards: by their number, all of them or only the one that it was opened for.
        fetch: downloads the files of an artifact that is on the remote; None where they are here.
    """

    ref: Ref
    place: Path
    manifest: Manifest
    shards: Mapping[int, Artifact] = field(default_factory=dict)
    fetch: Callable[[], None] | None = None

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
            return [shard.folder / f"{table}.parquet" for shard in self.shards.values()]
        wanted = (f"{table}-*.parquet", f"{DATA}/{table}-*.parquet")
        names = [name for name in self.manifest["files"] if any(fnmatchcase(name, form) for form in wanted)]
        return [self.folder / name for name in sorted(names)]

    def part(self, table: str, number: int) -> Path:
        """The file of one part of a table."""
        if self.shards:
            return self.shards[number].folder / f"{table}.parquet"
        return self.parts(table)[number]

    def part_digests(self, table: str) -> list[str]:
        """The digest of each part; for a shard that of its whole output."""
        if self.shards:
            return [shard.ref.digest for shard in self.shards.values()]
        files = self.manifest["files"]
        return [files[path.relative_to(self.folder).as_posix()]["sha256"] for path in self.parts(table)]

    def rejects(self) -> list[Path]:
        """The files of rejected rows, its shards' included."""
        folders = [self.folder, *(shard.folder for shard in self.shards.values())]
        return [path for folder in folders if (path := folder / "rejects.parquet").exists()]


@dataclass
class Draft:
    """An artifact that is being made.

    Attributes:
        out: the folder to write into.
        manifest: what is known of it before.
        rows: how many came in, were kept and were rejected.
        notes: what the stage has to say, by name.
        shards: the artifacts that it consists of.
        external: the user's folder that holds its data.
        lineage: the digest covers the key too, so that equal content made otherwise is not the same.
        aside: files that no other stage reads: with clocks in them, or for people. They are verified but no part of
            the digest.
    """

    out: Path
    manifest: dict[str, Any]
    rows: Rows = field(default_factory=lambda: Rows({"in": 0, "kept": 0, "rejected": {}}))
    notes: dict[str, Any] = field(default_factory=dict)
    shards: list[Ref] = field(default_factory=list)
    external: Path | None = None
    lineage: bool = False
    aside: set[str] = field(default_factory=set)
