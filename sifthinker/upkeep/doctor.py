"""What a reproduction needs of this machine, of its store, of the users' files and of its endpoints, looked at one by
one: `sif doctor`. The Prefect server's part is in tasks/operations/doctor.py.

A check yields findings: what is there, and what to do where that is not right. One that breaks is a finding too, and
hides none of the others. No check prints a key, and none costs money but `endpoints`, one short call an endpoint.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import sqlite3
import sys
import tempfile
import time
import tomllib
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import psutil
from filelock import FileLock, Timeout

from sifthinker.annotation import retry
from sifthinker.config import STANDIN, Api, Config
from sifthinker.core.errors import UserError
from sifthinker.models import miniature
from sifthinker.store.artifacts import Store
from sifthinker.system.disk_errors import trouble
from sifthinker.system.files import write_json

Verdict = Literal["ok", "warning", "error"]
CHECKOUT = Path(__file__).resolve().parents[2]
DISTRIBUTION = "sifthinker-repro"
CONSTRAINTS = ("constraints.txt", "constraints-py312.txt")
GB = 1e9
TINY = "tiny"
# File systems of several machines, by the names that Linux gives them: SQLite's locks are not to be trusted there.
NETWORK = re.compile(
    r"nfs\d?|cifs|smb\w*|ceph|lustre|gpfs|beegfs|glusterfs|afs|9p|fuse\.(ceph|gluster|sshfs|s3fs|gcsfuse|rclone)\S*"
)


@dataclass(frozen=True)
class Finding:
    """One line of the table."""

    check: str
    verdict: Verdict
    found: str
    todo: str = ""


Check = Callable[[], Iterable[Finding]]


def examine(checks: Mapping[str, Check]) -> list[Finding]:
    """The findings of all checks, in order; of one that breaks, what it had found, and that it broke."""
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            findings.extend(check())
        except UserError as error:  # says what to do itself
            findings.append(Finding(name, "error", str(error)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the other checks are still wanted
            said = f"the check broke: {type(error).__name__}: {error}"
            findings.append(Finding(name, "error", said, "see to what it names, then look again"))
    return findings


def machine(config: Config, calls: bool) -> dict[str, Check]:
    """The checks of everything but the Prefect server; with `calls` also those that cost a few tokens."""
    return {
        "python": python,
        "packages": packages,
        "GPU": lambda: gpu(config),
        "vLLM": lambda: vllm(config),
        "servers": lambda: servers(config),
        "disk": lambda: disk(config),
        "store": lambda: store(config),
        "remote": lambda: remote(config),
        "ledger": lambda: ledger(config.store / "calls.sqlite"),
        "data": lambda: data(config),
        "weights": lambda: weights(config),
        "endpoints": lambda: endpoints(config, calls),
    }


def python(version: tuple[int, ...] = sys.version_info[:3], project: Path = CHECKOUT) -> Iterator[Finding]:
    """The interpreter against `requires-python`."""
    required, _, _ = _project(project)
    bounds = re.findall(r"(>=|<)\s*(\d+)\.(\d+)", required)
    fits = all((version[:2] >= (int(a), int(b))) == (sign == ">=") for sign, a, b in bounds)
    shown = f"{'.'.join(map(str, version))} on {platform.system()} {platform.machine()}"
    if fits:
        yield Finding("python", "ok", shown)
    else:
        yield Finding("python", "error", shown, f"use one of {required}")


def packages(project: Path = CHECKOUT, installed: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """What is installed against the direct dependencies and the exact pins.

    Args:
        project: folder of pyproject.toml and the constraints.
        installed: version by normalised name; none: of this environment.
    """
    there = _installed() if installed is None else installed
    _, needed, training = _project(project)
    if missing := [name for name in needed if name not in there]:
        todo = "pip install -e . -c constraints.txt"
        yield Finding("packages", "error", f"not installed: {', '.join(missing)}", todo)
    if missing := [name for name in training if name not in there]:
        found = f"not installed: {', '.join(missing)}: no stage that runs a model can run here"
        yield Finding(
            "packages", "warning", found, "pip install -e '.[train]' -c constraints.txt, if they shall"
        )
    sets = {file: _pins(project / file) for file in CONSTRAINTS if (project / file).is_file()}
    if not sets:
        found = f"{len(there)} installed; no constraints are beside the code"
        yield Finding("packages", "ok", found)
        return
    differing = {
        file: [
            f"{name} {there[name]} (pinned: {pin})" for name, pin in pins.items() if _other(there, name, pin)
        ]
        for file, pins in sets.items()
    }
    file = min(differing, key=lambda file: len(differing[file]))  # there is a set for each version of Python
    if differing[file]:
        todo = f"pip install -c {file} …; other versions are untested"
        yield Finding("packages", "warning", ", ".join(differing[file]), todo)
    else:
        count = sum(name in there for name in sets[file])
        yield Finding("packages", "ok", f"{count} packages, each as pinned in {file}")


def gpu(config: Config) -> Iterator[Finding]:
    """The GPUs that torch sees, against what the configuration asks for."""
    if "torch" not in _installed():
        yield Finding("GPU", "ok", "not looked at: torch is not installed")
        return
    import torch

    built = f"torch {torch.__version__}"
    here = config.placement == "process"
    ranks = max(config.sft.ranks, config.grpo.ranks)
    real = config.model.weights != TINY
    if not torch.cuda.is_available():
        found = f"none; {built} computes on {os.cpu_count()} CPU cores"
        if here and real:
            todo = (
                f"{config.model.weights} needs GPUs: run on a machine that has them, or set placement: pools"
            )
            yield Finding("GPU", "warning", found, todo)
        else:
            yield Finding("GPU", "ok", found)
        return
    count = torch.cuda.device_count()
    cards = [torch.cuda.get_device_properties(number) for number in range(count)]
    free = [torch.cuda.mem_get_info(number)[0] for number in range(count)]
    shown = "; ".join(
        f"{card.name}, {left / GB:.0f} of {card.total_memory / GB:.0f} GB free"
        for card, left in zip(cards, free, strict=True)
    )
    bf16 = torch.cuda.is_bf16_supported()
    found = f"{count}: {shown}; {'bf16' if bf16 else 'no bf16'}; {built}, CUDA {torch.version.cuda}"
    if here and real and ranks > count:
        yield Finding(
            "GPU", "warning", found, f"the configuration asks for {ranks} ranks: lower sft.ranks, grpo.ranks"
        )
    elif not bf16 and "bf16" in (config.sft.precision, config.grpo.precision, config.merge.precision):
        yield Finding("GPU", "warning", found, "set the precision of sft, merge and grpo to fp32")
    elif any(left < 0.5 * card.total_memory for card, left in zip(cards, free, strict=True)):
        yield Finding("GPU", "warning", found, "something else holds their memory: see nvidia-smi")
    else:
        yield Finding("GPU", "ok", found)


def vllm(config: Config) -> Iterator[Finding]:
    """Whether vLLM can be started, where the configuration wants it, and whether servers that it names answer."""
    path = shutil.which("vllm")
    found = path or "not installed"
    if config.evaluate.server == "vllm" and path is None and config.placement == "process":
        todo = (
            "install it in an environment of its own (docker/vllm.txt), or set evaluate.server: transformers"
        )
        yield Finding("vLLM", "warning", f"{found}; evaluate.server wants it", todo)
    else:
        yield Finding("vLLM", "ok", f"{found}; evaluate.server is {config.evaluate.server}")


def servers(config: Config) -> Iterator[Finding]:
    """Servers of models that the configuration names by their address."""
    if (url := config.evaluate.server).startswith("http"):
        if trouble := _answer(f"{url.rstrip('/')}/models"):
            yield Finding("evaluate.server", "error", f"{url}: {trouble}", "start it, or correct the address")
        else:
            yield Finding("evaluate.server", "ok", f"{url} answers")
    if config.grpo.generation == "vllm_server":
        from sifthinker.training.preflight import ask_generation_server

        ask_generation_server(config.grpo.vllm_server)
        yield Finding("grpo.vllm_server", "ok", f"{config.grpo.vllm_server} can sample for a training")


def disk(
    config: Config, usage: Callable[[Path], tuple[int, int, int]] = lambda path: shutil.disk_usage(path)
) -> Iterator[Finding]:
    """The room for the store and for temporary files, in bytes and in files."""
    large = config.model.weights != TINY  # two merged models and the checkpoints of two trainings
    wanted = {
        "store": (config.store, 200 * GB if large else 5 * GB),
        "temporary": (Path(tempfile.gettempdir()), 2 * GB),
    }
    for name, (folder, want) in wanted.items():
        there = _existing(folder)
        total, _, free = usage(there)
        found = f"{folder}: {free / GB:.1f} of {total / GB:.0f} GB free"
        todo = "make room (`sif prune` says what the store can do without), or set `store` to another disk"
        if name == "temporary":
            todo = "make room, or set TMPDIR to a folder on another disk"
        files = os.statvfs(there)
        if files.f_files and files.f_favail < 10_000:
            yield Finding(f"disk: {name}", "error", f"{folder}: only {files.f_favail} more files fit", todo)
        elif free < want / 20:
            yield Finding(f"disk: {name}", "error", found, todo)
        elif free < want:
            yield Finding(f"disk: {name}", "warning", f"{found}; {want / GB:.0f} GB are wanted", todo)
        else:
            yield Finding(f"disk: {name}", "ok", found)


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
    kind = _filesystem(opened.root)
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


def ledger(path: Path) -> Iterator[Finding]:
    """Whether the ledger of paid calls is on a disk of this machine, and can be read."""
    kind = _filesystem(path.parent)
    if NETWORK.fullmatch(kind):
        found = f"{path} is on {kind}, a network file system"
        todo = "keep `store` on a local disk and share it by `remote`; until then let one machine at a time call APIs"
        yield Finding("ledger", "warning", found, todo)
        return
    if not path.exists():
        yield Finding("ledger", "ok", f"none yet; it will be on {kind}")
        return
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10)) as db:
            db.execute("SELECT key FROM calls LIMIT 1").fetchall()
            calls, money = db.execute("SELECT total(calls), total(money) FROM accounts").fetchone()
    except sqlite3.Error as error:
        todo = "restore it from a copy, or move it away: what it holds would be paid again"
        yield Finding("ledger", "error", f"{path}: {error}", todo)
        return
    yield Finding("ledger", "ok", f"{path} on {kind}: {calls:,.0f} calls paid, {money:,.2f} in money")


def data(config: Config) -> Iterator[Finding]:
    """The files and folders that the configuration names."""
    named: dict[str, dict[str, Path | None]] = {}
    for number, source in enumerate(config.sources):
        named[f"sources[{number}] {source.name}"] = {
            "path": source.path,
            "images": source.images,
            "sizes": source.sizes,
        }
    for number, benchmark in enumerate(config.evaluate.benchmarks):
        named[f"benchmarks[{number}] {benchmark.name}"] = {"path": benchmark.path, "images": benchmark.images}
    for name, paths in named.items():
        wrong = [
            f"{field} {path}: {said}" for field, path in paths.items() if path and (said := _unreadable(path))
        ]
        if wrong:
            todo = f"correct the path, or put the files there; relative paths start at {Path.cwd()}"
            yield Finding(name, "error", "; ".join(wrong), todo)
        else:
            yield Finding(name, "ok", ", ".join(str(path) for path in paths.values() if path))
    if config.scenes:
        yield Finding("scenes", "ok", f"{config.scenes.rows} questions are rendered; no files are needed")


def weights(config: Config) -> Iterator[Finding]:
    """Where the pre-trained weights will come from."""
    for name, given in (("model.weights", config.model.weights), ("depth.weights", config.depth.weights)):
        folder = Path(given).expanduser()
        if given == TINY:
            yield Finding(name, "ok", "tiny: random, built on the spot; learns nothing")
        elif given == miniature.NAME:
            yield Finding(
                name, "ok", "miniature: small, trained on rendered scenes; photographs mean nothing to it"
            )
        elif folder.is_dir():
            lacks = [file for file in ("config.json", "*.safetensors") if not any(folder.glob(file))]
            if lacks:
                todo = "give the folder of a model in safetensors"
                yield Finding(name, "error", f"{folder} has no {' and no '.join(lacks)}", todo)
            else:
                yield Finding(name, "ok", str(folder))
        elif not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", given):
            yield Finding(
                name,
                "error",
                f"{given}: no such folder",
                "give a folder, a hub id (owner/name), tiny, or miniature",
            )
        elif os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("0", "", "false", "no"):
            todo = "unset HF_HUB_OFFLINE, or give a folder, unless the store has them already"
            yield Finding(name, "warning", f"{given} is on the hub, and HF_HUB_OFFLINE is set", todo)
        else:
            yield Finding(name, "ok", f"{given}: downloaded from the hub when first needed")


def endpoints(config: Config, calls: bool) -> Iterator[Finding]:
    """The key of every endpoint, and with `calls` one short answer; equal endpoints are asked once."""
    used: dict[str, Api | None] = {
        "annotate": config.annotate.api,
        **{
            f"retry.passes[{n}]": retry.over(again, config.annotate).api
            for n, again in enumerate(config.retry.passes)
        },
        "grpo.judge": config.grpo.judge,
        "evaluate.judge": config.evaluate.judge,
    }
    grouped: dict[tuple[str, str, str], tuple[list[str], Api]] = {}
    for field, api in used.items():
        if api is not None:
            grouped.setdefault((api.base_url, api.model, api.api_key_env), ([], api))[0].append(field)
    for fields, api in grouped.values():
        name = f"endpoint {', '.join(fields)}"
        yield from examine({name: partial(_endpoint, name, api, calls)})


def _endpoint(name: str, api: Api, calls: bool) -> Iterator[Finding]:
    from sifthinker import llm
    from sifthinker.llm import http, judge

    if api.base_url == STANDIN:
        yield Finding(name, "ok", "the embedded stand-in: no model, and no key")
        return
    asked = f"{api.base_url}, model {api.model}"
    has_key = bool(http.key(api, api.base_url))
    key = f"{api.api_key_env} is set" if has_key else "on this machine, without a key"
    if not calls:
        yield Finding(name, "ok", f"{asked}: {key}; not called")
        return
    # A ledger of its own: from the run's, a second look would be answered without asking. As a single online call:
    # a batch may take hours.
    brief = {
        "mode": "chat" if api.mode == "batch" else api.mode,
        "retries": 1,
        "timeout": min(api.timeout, 60.0),
    }
    question = judge.request("What colour is the sky?", "blue", "blue")  # the shortest call that a run makes
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        llm.Client(api.model_copy(update=brief), Path(folder) / "calls.sqlite") as client,
    ):
        reply = client.ask(question)
    if isinstance(reply, llm.Failure):
        todo = "check base_url and model, and whether its provider has a disturbance"
        yield Finding(name, "error", f"{asked}: {reply.kind}: {reply.detail}", todo)
        return
    tokens = reply.prompt_tokens + reply.completion_tokens
    found = f"{asked}: {reply.model} answered in {time.monotonic() - began:.1f} s, {tokens} tokens; {key}"
    yield Finding(name, "ok", found)


def _project(folder: Path) -> tuple[str, list[str], list[str]]:
    """`requires-python`, and the names of the packages that all stages and that training stages need."""
    file = folder / "pyproject.toml"
    if file.is_file():  # what is installed may describe itself as it was when it was installed
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        needed, training = project["dependencies"], project["optional-dependencies"]["train"]
        return (
            project["requires-python"],
            [_name(line) for line in needed],
            [_name(line) for line in training],
        )
    described = importlib.metadata.metadata(DISTRIBUTION)
    lines = importlib.metadata.requires(DISTRIBUTION) or []
    needed = [_name(line) for line in lines if "extra ==" not in line]
    training = [_name(line) for line in lines if re.search(r"extra == .train", line)]
    return described["Requires-Python"], needed, training


def _name(line: str) -> str:
    """The normalised name of a requirement or of a package."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0]).lower()


def _installed() -> dict[str, str]:
    return {_name(found.name): found.version for found in importlib.metadata.distributions()}


def _pins(file: Path) -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return {_name(line): line.partition("==")[2] for line in lines if "==" in line}


def _other(there: Mapping[str, str], name: str, pin: str) -> bool:
    """Whether another version is installed; 2.13.0+cpu is 2.13.0, built for another device."""
    return name in there and there[name].partition("+")[0] != pin


def _existing(folder: Path) -> Path:
    """The folder, or of its parents the first that there is."""
    folder = folder.resolve()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _filesystem(folder: Path) -> str:
    """The type of the file system that a folder is on, as Linux names it."""
    mounts = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    here = _existing(folder)
    return next((mounts[path] for path in (here, *here.parents) if path in mounts), "an unknown file system")


def _unreadable(path: Path) -> str:
    """Why a file or a folder of the users' cannot be read; "" when it can."""
    try:
        if path.is_dir():
            return "" if any(path.iterdir()) else "is empty"
        with path.open("rb") as file:
            return "" if file.read(1) else "is empty"
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _answer(url: str) -> str | None:
    """Why nothing answers at an address; None when something does, whatever it says."""
    try:
        urllib.request.urlopen(url, timeout=10).close()
    except urllib.error.HTTPError:
        return None
    except OSError as error:
        return str(getattr(error, "reason", error))
    return None
