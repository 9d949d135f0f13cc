"""Removes from a store what nobody needs: artifacts that no pinned and no recent run reaches, and leftovers of killed runs.

What stays, whatever else is true of it:
* what a root reaches, through the inputs and shards in the manifests and through accepted keys. Roots are: artifacts
  with an alias (`sif promote`), those of the latest runs, of runs within the last days and of runs under way, and the
  evaluation of the last good night, which the next one is compared with;
* what was made, written to or looked up within the last days (a verified hit touches its folder), and what it reaches;
* what is being made: its lock is held;
* the ledger of paid calls, the history of the nights and their reports, and the remembered digests;
* every other folder that is no stage's: W&B's runs, which wait for `wandb sync`, and what people put there, also where it
  stands in a folder that is called like a stage;
* links, with what is behind them and what that reaches: it may be another store's.

What cannot be removed is told, and the rest goes on.

A folder is renamed to a trash name before it is deleted, so that no half of it is ever taken for whole. The next pruning
deletes what a killed one left under such a name.

A store with a remote is pruned there too, by the same rules (`sifthinker.upkeep.prune_remote`).
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

from filelock import Timeout

from sifthinker.core.errors import UserError
from sifthinker.evaluation import history
from sifthinker.store import runs
from sifthinker.store.artifacts import KEY_LENGTH, Store
from sifthinker.upkeep import prune_remote

logger = logging.getLogger(__name__)
DAY = 86_400.0  # seconds
SHOWN = 5  # in a message, of what could not be removed
_KEY = re.compile(f"[0-9a-f]{{{KEY_LENGTH}}}")
PARTS = ".parts"  # ends the name of the folder of a stage's shards
# One and many.
KINDS = {
    "artifact": ("artifact", "artifacts"),
    "work": ("work folder", "work folders"),
    "temporary": ("temporary", "temporaries"),
    "result": ("result record", "result records"),
    "accepted": ("acceptance", "acceptances"),
    "run": ("run record", "run records"),
    "uploaded": ("artifact on the remote", "artifacts on the remote"),
    "upload": ("half upload", "half uploads"),
    "lock": ("dead lock", "dead locks"),
}

Name = tuple[str, str]  # stage and key


@dataclass(frozen=True)
class Rules:
    """What counts as recent.

    Attributes:
        days: younger things stay, and so does what a run within so many days reaches.
        runs: the latest so many runs stay, however old.
        over: ids of runs that are known to have ended, though their record says "running": killed ones.
        stages: names of the stages that there are, whose folders are pruned though no whole artifact is in them.
    """

    days: float = 14.0
    runs: int = 5
    over: Collection[str] = ()
    stages: Collection[str] = ()

    @property
    def limit(self) -> float:
        """Seconds since 1970: what is younger stays."""
        return time.time() - self.days * DAY


class Doomed(NamedTuple):
    """One thing to remove."""

    kind: str  # of KINDS
    path: Path  # below the store's folder, or below its remote's address
    bytes: int
    why: str


@dataclass(frozen=True)
class Survey:
    """What a pruning would remove, and how much stays."""

    doomed: tuple[Doomed, ...]
    kept: int  # artifacts
    kept_bytes: int
    stuck: tuple[str, ...] = ()  # what could not be removed, and why

    @property
    def bytes(self) -> int:
        """The size of all that would be removed."""
        return sum(thing.bytes for thing in self.doomed)


def survey(store: Store, rules: Rules) -> Survey:
    """Looks at a store without changing it.

    Raises:
        UserError: the record of an alias cannot be read, so that nobody knows what it pins.
    """
    root, uploads = store.root, prune_remote.uploads(store)
    known = _Known(rules.stages, {name for name, upload in uploads.items() if _names(upload.manifest, name)})
    uploads = {name: upload for name, upload in uploads.items() if known.owns(name[0]) and known.made(name)}
    folders = {path: _measure(path) for path in _folders(root, known)}
    artifacts = {_name(path): measured for path, measured in folders.items() if "." not in path.name}
    manifests = {name: dict(upload.manifest) for name, upload in uploads.items()}
    manifests |= {name: _json(store.folder(*name) / "manifest.json") for name in artifacts}
    accepted = {_name(path): path for path in (root / "accepted").glob("*/*") if ".tmp-" not in path.name}
    stands_for = {name: (name[0], str(_json(path).get("key"))) for name, path in accepted.items()}
    records = runs.records(root)
    old = records[rules.runs :]
    old = [(path, record) for path, record in old if not _recent(record, rules)]
    recent = [record for path, record in records if (path, record) not in old]

    used = {name: measured.used for name, measured in artifacts.items()}
    used |= {
        name: max(used.get(name, 0.0), upload.used) for name, upload in uploads.items() if upload.manifest
    }
    roots = _roots(root, recent, manifests) | {name for name, when in used.items() if when >= rules.limit}
    roots |= {name for name in artifacts if _is_linked(root, store.folder(*name))}
    kept = reached(manifests, roots, stands_for)

    def things() -> Iterator[tuple[str, Path, str]]:
        for name in sorted(artifacts.keys() - kept):
            yield "artifact", store.folder(*name), "no pinned and no recent run reaches it"
        yield from _leftovers(root, folders)
        for path in sorted((root / "prefect" / "results").glob("*-*")):
            stage, _, key = path.name.rpartition("-")
            if (stage, key) not in kept:
                yield "result", path, "Prefect's record of an artifact that is gone"
        for name, path in accepted.items():
            if stands_for[name] not in kept:
                yield "accepted", path, "stands for an artifact that is gone"
        for path, record in old:
            yield "run", path, f"run {record.get('name')}, neither recent nor one of the latest {rules.runs}"

    doomed = []
    for kind, path, why in things():
        if _is_linked(root, path):
            continue
        measured = folders.get(path) or _measure(path)
        if measured.used < rules.limit:
            doomed.append(Doomed(kind, path.relative_to(root), measured.bytes, why))
    for kind, name, upload, why in prune_remote.doomed(uploads, kept):
        if upload.used < rules.limit:
            doomed.append(Doomed(kind, Path(*name), upload.bytes, why))
    here = [artifacts[name].bytes for name in kept if name in artifacts]
    return Survey(tuple(doomed), len(kept), sum(here))


def summary(found: Survey, removed: bool) -> str:
    """What goes and what stays, in a sentence."""
    kinds = Counter(thing.kind for thing in found.doomed)
    what = ", ".join(f"{count} {KINDS[kind][count > 1]}" for kind, count in kinds.items())
    verb = "removed" if removed else "would remove"
    gone = f"{verb} {what}: {size(found.bytes)}" if what else "nothing to remove"
    return f"{gone}; {found.kept} artifacts of {size(found.kept_bytes)} stay"


def size(count: int) -> str:
    """Bytes as people read them."""
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "bytes" else f"{value:.1f} {units[0]}"


def running(store: Store) -> list[str]:
    """The ids of the runs whose record says that they are under way."""
    return [record["id"] for _, record in runs.records(store.root) if record.get("state") == runs.RUNNING]


def reached(
    manifests: Mapping[Name, Mapping[str, Any]], roots: Iterable[Name], accepted: Mapping[Name, Name]
) -> set[Name]:
    """The artifacts that roots reach through inputs, shards and accepted keys; of those that there are."""
    found: set[Name] = set()
    ahead = list(roots)
    while ahead:
        name = ahead.pop()
        if name in found:
            continue
        if name not in manifests:
            ahead += [accepted[name]] if name in accepted else []
            continue
        found.add(name)
        manifest = manifests[name]
        ahead += map(_ref, (*manifest.get("inputs", {}).values(), *manifest.get("shards", ())))
    return found


def remove(store: Store, rules: Rules, found: Survey) -> Survey:
    """Removes what a survey found, one by one; what is left of the survey is what was removed."""
    removed, stuck = [], []
    for thing in found.doomed:
        away = prune_remote.remove if thing.kind in prune_remote.KINDS else _remove
        try:
            stays = away(store, rules.limit, thing.kind, thing.path)
        except (OSError, UserError) as error:
            stays = str(error)
            stuck.append(f"{thing.path}: {stays}")
        if stays:
            logger.warning("%s stays: %s", thing.path, stays)
        else:
            removed.append(thing)
    return replace(found, doomed=tuple(removed), stuck=tuple(stuck))


def check(found: Survey) -> None:
    """Sees that a pruning has removed what it should have.

    Raises:
        UserError: some of it could not be removed.
    """
    if found.stuck:
        more = [f"and {len(found.stuck) - SHOWN} more"] if len(found.stuck) > SHOWN else []
        raise UserError(
            f"prune: {len(found.stuck)} could not be removed, the rest was: {'; '.join([*found.stuck[:SHOWN], *more])}; "
            "see who owns them and what uses them, then prune again"
        )


def _remove(store: Store, limit: float, kind: str, name: Path) -> str:
    """Why it stayed; "" when it is gone."""
    path = store.root / name
    if kind in ("accepted", "run") and store.remote:  # else the next pull brings it back
        store.remote.delete(name.as_posix())
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return ""
    stage, key = path.parent.name, path.name.partition(".")[0]
    lock = store.lock(stage, key)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return "it is being made now"
    try:
        if _measure(path).used >= limit:  # a run that began since the survey has looked it up
            return "it was used just now"
        trash = path.with_name(f"{key}.discarded-{uuid.uuid4().hex}")
        path.rename(trash)
        if not store.folder(
            stage, key
        ).exists():  # who waits for this lock sees its file gone and opens a new one
            Path(lock.lock_file).unlink(missing_ok=True)
    finally:
        lock.release()
    shutil.rmtree(trash)
    return ""


def _roots(
    root: Path, recent: Iterable[Mapping[str, Any]], manifests: Mapping[Name, Mapping[str, Any]]
) -> set[Name]:
    """What records name: recent runs, aliases, and the nights that the next ones are compared with."""
    named = {_ref(ref) for record in recent for ref in record.get("stages", {}).values()}
    named |= {_pinned(path) for path in (root / "aliases").glob("*.json")}
    return named | _compared_with(root / "history", manifests)


class Measured(NamedTuple):
    """The size of a file or a folder, and when it was last used.

    Attributes:
        bytes: of all files in it.
        used: seconds since 1970: the latest modification of anything in it, or its latest verified hit.
    """

    bytes: int
    used: float


def _measure(path: Path) -> Measured:
    total, used = 0, 0.0
    for item in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):  # a run under way renames what it has written
            stat = item.lstat()
            total += stat.st_size if S_ISREG(stat.st_mode) else 0
            used = max(used, stat.st_mtime)
    return Measured(total, used)


class _Known(NamedTuple):
    """What tells a stage's folder from what else is in a store.

    Attributes:
        stages: names of the stages that there are.
        whole: names of artifacts that name themselves so, on the remote.
    """

    stages: Collection[str]
    whole: Collection[Name]

    def owns(self, name: str, folder: Path | None = None) -> bool:
        """Whether a folder of the store is a stage's: of one that there is, or of one that earlier versions had."""
        if name.removesuffix(PARTS) in self.stages or any(stage == name for stage, _ in self.whole):
            return True
        there = folder.glob("*/manifest.json") if folder else ()
        # What a killed pruning left has a trash name after its key.
        return any(_names(_json(path), (name, path.parent.name.partition(".")[0])) for path in there)

    def made(self, name: Name, folder: Path | None = None) -> bool:
        """Whether what stands in a stage's folder is ours: it is called like a key, or belongs to what names itself so."""
        own = name[0], name[1].partition(".")[0]  # after the key: .work, .lock, a temporary's or a trash name
        if _KEY.fullmatch(own[1]) or own in self.whole:
            return True
        paths = (folder / "manifest.json", folder.with_name(own[1]) / "manifest.json") if folder else ()
        return any(_names(_json(path), own) for path in paths if path.exists())


def _names(manifest: Mapping[str, Any], name: Name) -> bool:
    """Whether a manifest is that of the artifact of a name."""
    return (manifest.get("stage"), manifest.get("key")) == name


def _folders(root: Path, known: _Known) -> list[Path]:
    """Everything that stands where artifacts stand: artifacts, work folders, what killed runs left."""
    stages = [path for path in sorted(root.iterdir()) if path.is_dir() and known.owns(path.name, path)]
    there = [path for stage in stages for path in sorted(stage.iterdir()) if path.is_dir()]
    return [path for path in there if known.made((path.parent.name, path.name), path)]


def _leftovers(root: Path, folders: Iterable[Path]) -> Iterator[tuple[str, Path, str]]:
    """What runs left that did not come to their end: its kind, where it is, and why it is not needed."""
    for path in folders:
        if path.name.endswith(".work"):
            done = path.with_suffix("").exists()
            yield "work", path, "its artifact is made" if done else "nobody tried again"
        elif "." in path.name:
            yield "temporary", path, "left by a killed run"
    for folder in ("runs", "aliases", "accepted/*", "history", "nights/*", "comparisons/*"):
        for path in root.glob(f"{folder}/*.tmp-*"):
            yield "temporary", path, "left by a killed run"


def _is_linked(root: Path, path: Path) -> bool:
    """Whether a link is on the way from the store's folder to something in it, or it is one."""
    return any(one.is_symlink() for one in (path, *path.parents) if one.is_relative_to(root) and one != root)


def _recent(record: Mapping[str, Any], rules: Rules) -> bool:
    if record.get("state") == runs.RUNNING and record["id"] not in rules.over:
        return True
    return float(record.get("started", 0.0)) >= rules.limit


def _compared_with(folder: Path, manifests: Collection[Name]) -> set[Name]:
    """By checkpoint, the evaluation that the next night is compared with: the latest good one that is still there."""
    rows = history.read(folder)
    found = set()
    for target in {row["target"] for row in rows}:
        good = (row["evaluation"].partition("/") for row in history.good(rows, target))
        found |= set(islice(((stage, key) for stage, _, key in good if (stage, key) in manifests), 1))
    return found


def _pinned(path: Path) -> Name:
    record = _json(path)
    if "ref" not in record:
        raise UserError(f"prune: {path} cannot be read, so what it pins is not known; `sif promote` it again")
    return _ref(record["ref"])


def _name(path: Path) -> Name:
    return path.parent.name, path.name


def _ref(ref: Mapping[str, Any]) -> Name:
    return str(ref["stage"]), str(ref["key"])


def _json(path: Path) -> dict[str, Any]:
    """A record; an unreadable one says nothing, and so reaches nothing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        logger.warning("%s: %s", path, error)
        return {}
    return found if isinstance(found, dict) else {}
