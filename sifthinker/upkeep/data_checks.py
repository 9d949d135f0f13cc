"""The store, the files of the users and the weights."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.evaluation.benchmarks import presence
from sifthinker.models import hub, miniature
from sifthinker.store.artifacts import Store
from sifthinker.system.disk_errors import trouble
from sifthinker.system.files import write_json
from sifthinker.upkeep.findings import Finding, Verdict
from sifthinker.upkeep.inputs import states
from sifthinker.upkeep.machine_checks import TINY, filesystem


def store(config: Config) -> Iterator[Finding]:
    """Whether the store takes files under their final name, and locks."""
    opened = Store(config.store, config.remote)
    probe = opened.root / f"doctor-{uuid.uuid4().hex}"
    try:
        write_json(probe, {"written": True})
        assert json.loads(probe.read_text(encoding="utf-8")) == {"written": True}, f"{probe}: reads otherwise"
        with FileLock(f"{probe}.lock", timeout=5):
            try:
                FileLock(f"{probe}.lock", timeout=0).acquire()
            except Timeout:
                locks = True
            else:
                locks = False
    except OSError as error:
        found, _, todo = (trouble(error) or f"{error}; see to what it names").partition("; ")
        yield Finding("store", "error", f"{opened.root}: cannot be written: {found}", todo)
        return
    finally:
        with suppress(OSError):  # of a store that cannot be written: there is nothing to remove
            probe.unlink(missing_ok=True)
            Path(f"{probe}.lock").unlink(missing_ok=True)
    kind = filesystem(opened.root)
    if locks:
        yield Finding("store", "ok", f"{opened.root}: writes and locks on {kind}")
    else:
        todo = "mount it with locks (flock), or let one run at a time use it"
        yield Finding("store", "error", f"{opened.root}: a lock on {kind} keeps nobody out", todo)


def remote(config: Config) -> Iterator[Finding]:
    """Whether the bucket can be listed, written and locked."""
    known = (config.store / "remote.json").exists()  # the folder remembers whose cache it is
    there = Store(config.store, config.remote).remote if config.remote or known else None
    if there is None:
        yield Finding("remote", "ok", "none is configured")
        return
    runs = len(there.list("runs"))
    name = f"doctor-{uuid.uuid4().hex}"
    there.write(name, b"probe")
    there.delete(name)
    lock = there.lock(f"{name}.lock")
    if not lock.take():
        yield Finding(
            "remote", "error", f"{there.url}: its locks cannot be taken", "see whether its server is in order"
        )
        return
    lock.release()
    yield Finding("remote", "ok", f"{there.url}: reads, writes and locks; {runs} runs are recorded there")


def data(config: Config) -> Iterator[Finding]:
    """The files and folders of the sources, with a few of their rows and pictures."""
    for number, source in enumerate(config.sources):
        name, state = f"sources[{number}] {source.name}", states.source(source)
        if state.verdict == "there":
            yield Finding(name, "ok", state.found)
        else:
            todo = (
                "correct the path, or put the files there (`sif data` says where they are published); relative paths start at "
                f"{Path.cwd()}"
            )
            yield Finding(name, "error", state.found, todo)
    if config.scenes:
        yield Finding("scenes", "ok", f"{config.scenes.rows} questions are rendered; no files are needed")


def benchmarks(config: Config) -> Iterator[Finding]:
    """Whether each benchmark can be asked: its files, read as far as the first question, and that question's picture."""
    settings = config.evaluate
    for number, benchmark in enumerate(settings.benchmarks):
        name = f"benchmarks[{number}] {benchmark.name}"
        alone = settings.model_copy(update={"benchmarks": (benchmark,)})
        if why := "; ".join(presence.absent(alone).values()):
            verdict: Verdict = "error" if settings.missing == "refuse" else "warning"
            todo = (
                f"correct the path, or put the files there; relative paths start at {Path.cwd()}; evaluate.missing: "
                "leave_out goes on without"
            )
            yield Finding(name, verdict, why, todo)
        else:
            yield Finding(name, "ok", f"{benchmark.path}, {benchmark.images}")


def weights(config: Config, policy: bool = True) -> Iterator[Finding]:
    """Where the pre-trained weights will come from, and whether a folder can be used; the policy's where it is wanted."""
    for name, section in (("model.weights", config.model), ("depth.weights", config.depth)):
        given = section.weights
        if name == "model.weights" and not policy:
            continue
        folder = Path(given).expanduser()
        if given == TINY:
            yield Finding(name, "ok", "tiny: random, built on the spot; learns nothing")
        elif miniature.find(given, "policy" if section is config.model else "depth"):
            yield Finding(
                name, "ok", f"{given}: small, trained on rendered scenes; photographs mean nothing to it"
            )
        elif folder.is_dir():
            yield model_folder(name, folder, config.model.family)
        elif not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", given):
            yield Finding(
                name,
                "error",
                f"{given}: no such folder",
                "give a folder, a hub id (owner/name), tiny, or miniature",
            )
        elif (cached := hub.cached(given, section.revision)) is not None:
            yield Finding(name, "ok", f"{given}: in the hub's cache, {cached}")
        elif os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("0", "", "false", "no"):
            todo = "unset HF_HUB_OFFLINE, or give a folder, unless the store has them already"
            yield Finding(name, "warning", f"{given} is on the hub, and HF_HUB_OFFLINE is set", todo)
        else:
            yield Finding(name, "ok", f"{given}: downloaded from the hub when first needed")


def model_folder(name: str, folder: Path, family: str) -> Finding:
    """What `policy_weights` and `depth_weights` would say about a folder."""
    try:
        from sifthinker.models import loading
    except ImportError as error:  # a machine without the extra `train`
        return Finding(name, "ok", f"{folder}: not looked at: {error.name} is not installed")
    try:
        if name == "model.weights":
            loading.check_policy(folder, family)
        else:
            loading.check_depth(folder)
    except UserError as error:
        found, _, todo = str(error).rpartition("; ")
        return Finding(
            name, "error", found or todo, todo if found else "give the folder of a model in safetensors"
        )
    return Finding(name, "ok", str(folder))
