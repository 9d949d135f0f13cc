"""Fetches from the Hugging Face hub what `sif data --get` is asked for, into the layout that the readers expect.

A plan is made first: the commit, the files and their bytes. Nothing beyond the plan is fetched. What is cut off is resumed, here
and by the next call (huggingface_hub alone begins a file again then, and one piece of Visual-CoT has 10.7 GB), and a file
appears under its name when it is whole. The hub is the one of HF_ENDPOINT, and a token is read
from HF_TOKEN or `hf auth login`; it is never shown.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import httpx
import httpx2

from sifthinker.core.errors import UserError
from sifthinker.core.publications import Part
from sifthinker.system.disk_errors import trouble
from sifthinker.upkeep.inputs.wanted import Input, shown

SPARE = 1.05  # of the bytes that a fetch takes: room for what is written beside it
WORKERS = 4  # files at a time


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository: its name there, its bytes, and its SHA-256 where the hub knows it (large files)."""

    name: str
    size: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Fetch:
    """What one part of an input takes.

    Attributes:
        item: the input.
        part: of it.
        commit: of the repository, which all files are of.
        files: in the repository.
        target: the folder or the file that they become; None: the hub's cache.
    """

    item: Input
    part: Part
    commit: str
    files: tuple[HubFile, ...]
    target: Path | None

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(file.size for file in self.files)

    @property
    def left(self) -> int:
        """Bytes that are not there yet."""
        return sum(file.size for file in self.files if not self.has(file))

    @property
    def room(self) -> int:
        """Bytes that the disk must still take: without the beginnings of files that an earlier call left."""
        absent = [file for file in self.files if not self.has(file)]
        return sum(file.size - self._begun(file) for file in absent)

    def file(self, file: HubFile) -> Path:
        """Where a file lies in the end; not for weights, which stay in the hub's cache."""
        assert self.target is not None, "weights stay in the hub's cache"
        return (
            self.target if self.part.goes == "path" else self.target / file.name.removeprefix(self.part.strip)
        )

    def aside(self, file: HubFile) -> Path:
        """Where a file grows until it is whole."""
        final = self.file(file)
        return final.parent / ".fetching" / f"{final.name}.{self.commit[:12]}"

    def has(self, file: HubFile) -> bool:
        """Whether a file is there whole, by its size."""
        there = _in_cache(self.part, self.commit, file.name) if self.target is None else self.file(file)
        return there is not None and there.is_file() and there.stat().st_size == file.size

    def _begun(self, file: HubFile) -> int:
        """Bytes of a file that is not whole yet; of weights none, because the hub's client begins a file again."""
        if self.target is None or not (aside := self.aside(file)).is_file():
            return 0
        size = aside.stat().st_size
        return size if size <= file.size else 0  # what is too long is fetched anew


def plan(item: Input, part: Part, endpoint: str | None = None) -> Fetch:
    """What the hub has of a part.

    Args:
        item: the input.
        part: of it, on the hub.
        endpoint: of another hub than HF_ENDPOINT's.

    Raises:
        UserError: the repository or its files are not there, or not for this user, or the hub cannot be reached.
    """
    hub = _hub()
    try:
        info = hub.HfApi(endpoint=endpoint).repo_info(
            part.where, repo_type=part.kind, revision=item.revision, files_metadata=True
        )
    except failures() as error:
        raise _explained(part, error) from error
    found = [
        HubFile(entry.rfilename, int(entry.size or 0), str(entry.lfs.sha256) if entry.lfs else "")
        for entry in info.siblings or ()
        if any(fnmatch.fnmatchcase(entry.rfilename, pattern) for pattern in part.files)
    ]
    if not found:
        raise UserError(
            f"{part.address}: has none of {', '.join(part.files)} at revision {info.sha}; look at its page for what became "
            "of them"
        )
    return Fetch(
        item, part, str(info.sha), tuple(sorted(found, key=lambda file: file.name)), item.place(part)
    )


def check_room(fetches: Sequence[Fetch]) -> None:
    """Whether what is to be fetched fits on its disks.

    Raises:
        UserError: it does not.
    """
    wanted: dict[int, tuple[Path, float]] = {}
    for fetch in fetches:
        folder = _existing(fetch.target or _cache())
        disk = folder.stat().st_dev
        place, bytes_ = wanted.get(disk, (folder, 0.0))
        wanted[disk] = (place, bytes_ + fetch.room * SPARE)
    for place, bytes_ in wanted.values():
        free = shutil.disk_usage(place).free
        if bytes_ > free:
            raise UserError(
                f"{place}: {shown(free)} are free, and {shown(bytes_)} are wanted; make room, set another path in the "
                "configuration, or name fewer things after --get"
            )


def fetch(what: Fetch, tell: Callable[[int], None] = lambda size: None, endpoint: str | None = None) -> Path:
    """Fetches what a plan says; where it lies then.

    Args:
        what: the plan.
        tell: is told of bytes that came (negative: that have to come again), from several threads. Weights come with the
            hub's own bars.
        endpoint: of another hub than HF_ENDPOINT's.

    Raises:
        UserError: it is not for this user, the line broke for good, or the disk is full. What came stays, and the next call
            goes on from there, of weights with the first file that is not whole.
    """
    hub = _hub()
    try:
        if what.target is not None:
            _into_place(what, tell, endpoint)
            return what.target
        return Path(
            hub.snapshot_download(
                what.part.where,
                repo_type=what.part.kind,
                revision=what.item.revision,  # by its name: the cache remembers which commit it stands for
                allow_patterns=[_literal(file.name) for file in what.files],
                max_workers=WORKERS,
                endpoint=endpoint,
            )
        )
    except failures() as error:
        raise _explained(what.part, error) from error


def _into_place(what: Fetch, tell: Callable[[int], None], endpoint: str | None) -> None:
    """Fetches the files that are not there, several at a time; the first failure ends the others before their next file."""
    absent = [file for file in what.files if not what.has(file)]
    failed = threading.Event()

    def one(file: HubFile) -> None:
        if failed.is_set():
            return
        try:
            _one(what, file, tell, endpoint)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(one, absent))
    for folder in {what.aside(file).parent for file in what.files}:
        with suppress(OSError):  # somebody else's part is in it
            folder.rmdir()


def _one(what: Fetch, file: HubFile, tell: Callable[[int], None], endpoint: str | None) -> None:
    """Fetches one file, from where an earlier try ended; it gets its name when it is whole."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    part, aside = what.part, what.aside(file)
    aside.parent.mkdir(parents=True, exist_ok=True)
    url = hf_hub_url(part.where, file.name, repo_type=part.kind, revision=what.commit, endpoint=endpoint)
    found = get_hf_file_metadata(url, endpoint=endpoint)
    headers = build_hf_headers()
    if urlsplit(found.location).netloc != urlsplit(url).netloc:  # a token is the hub's alone
        headers.pop("authorization", None)
    with aside.open("ab") as opened:
        if opened.tell() > file.size:
            opened.truncate(0)
        have = opened.seek(0, os.SEEK_END)
        tell(have)
        if have < file.size:
            counted: Any = _Counted(opened, tell)
            http_get(found.location, counted, resume_size=have, headers=headers, expected_size=file.size)
    if file.sha256 and file_digest(aside) != file.sha256:
        aside.unlink()
        raise UserError(
            f"{part.where}: {file.name}: what came is not what the hub has (its sha256 differs); call again"
        )
    final = what.file(file)
    final.parent.mkdir(parents=True, exist_ok=True)
    aside.replace(final)


class _Counted:
    """A file that tells how many bytes are written to it."""

    def __init__(self, file: BinaryIO, tell: Callable[[int], None]) -> None:
        self._file, self._tell = file, tell

    def write(self, data: bytes) -> int:
        self._tell(len(data))
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def truncate(self) -> int:
        """The server begins again at the first byte."""
        end = self._file.seek(0, os.SEEK_END)
        self._tell(-end)
        return self._file.truncate(0)


def file_digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def failures() -> tuple[type[Exception], ...]:
    """What the hub's client raises where something is not to be had: its own errors, those of the line and of the system."""
    from huggingface_hub import errors

    own = (
        getattr(errors, name, None)
        for name in ("XetDownloadError", "RevisionResolutionError", "EntryNotFoundError")
    )
    return (OSError, httpx.HTTPError, httpx2.HTTPError, *(error for error in own if error is not None))


def _literal(name: str) -> str:
    """A file's name as a pattern of itself."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise UserError(
            "--get: huggingface_hub is not installed; pip install -e '.[train]' -c constraints.txt"
        ) from error
    return huggingface_hub


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _in_cache(part: Part, commit: str, name: str) -> Path | None:
    """A file of a repository in the hub's cache; None where it is not there."""
    found = _hub().try_to_load_from_cache(part.where, name, revision=commit, repo_type=part.kind)
    return Path(found) if isinstance(found, str) else None  # else the cache knows that there is no such file


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _explained(part: Part, error: Exception) -> UserError:
    """What went wrong with a repository, and what to do."""
    from huggingface_hub import errors

    token = "HF_TOKEN is set" if os.environ.get("HF_TOKEN") else "set HF_TOKEN or run `hf auth login`"
    if said := trouble(error):
        return UserError(f"{part.where}: {said}. What came is kept; call again then")
    if isinstance(error, errors.GatedRepoError):
        return UserError(
            f"{part.where}: its publisher asks for your name first: agree on {part.address} with your account, then give a "
            f"token of it ({token})"
        )
    if isinstance(
        error, errors.RepositoryNotFoundError
    ):  # the hub says 401 of what is not there, or not for everybody
        return UserError(
            f"{part.where}: the hub has no such repository, or not for this user; see {part.address}; if it is there, give a "
            f"token that may read it ({token})"
        )
    if isinstance(error, (errors.RevisionNotFoundError, errors.EntryNotFoundError)):
        return UserError(f"{part.where}: {_first(error)}; see {part.address} for its revisions and files")
    return UserError(
        f"{part.where}: could not be fetched: {type(error).__name__}: {_first(error)}. What came is kept; call again to go on "
        "from there"
    )


def _first(error: Exception) -> str:
    """The first line of an error that says something, without the addresses that follow."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else "no reason is given"
