"""The interpreter, the packages, the GPUs and the disks of this machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.models import miniature, serving
from sifthinker.system import commands
from sifthinker.training import samplers
from sifthinker.upkeep.findings import Finding

CHECKOUT = Path(__file__).resolve().parents[2]
DISTRIBUTION = "sifthinker-repro"
CONSTRAINTS = ("constraints.txt", "constraints-py312.txt")
GB = 1e9
TINY = "tiny"  # as weights: random, built on the spot


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
    beside = config.grpo.vllm.count if samplers.named(config.grpo) == "vllm_lora" else 0
    wanted = max(config.sft.ranks_a_node, config.grpo.ranks_a_node + beside)
    real = not is_small(config)
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
    if here and real and wanted > count:
        servers = (
            f", {beside} of them for grpo.vllm.count" if wanted > config.sft.ranks_a_node and beside else ""
        )
        fields = "sft.ranks, grpo.ranks" + (", grpo.vllm.count" if servers else "")
        todo = f"the configuration asks for {wanted} GPUs{servers}: lower {fields}"
        yield Finding("GPU", "warning", found, todo)
    elif not bf16 and "bf16" in (config.sft.precision, config.grpo.precision, config.merge.precision):
        yield Finding("GPU", "warning", found, "set the precision of sft, merge and grpo to fp32")
    elif any(left < 0.5 * card.total_memory for card, left in zip(cards, free, strict=True)):
        yield Finding("GPU", "warning", found, "something else holds their memory: see nvidia-smi")
    else:
        yield Finding("GPU", "ok", found)


def is_small(config: Config) -> bool:
    """Whether the policy is one of the small models of this project, which need no GPU and little room."""
    return config.model.weights == TINY or miniature.find(config.model.weights, "policy") is not None


def vllm(config: Config) -> Iterator[Finding]:
    """Whether vLLM runs, where the configuration wants it here: `vllm --version`, which imports what a server imports."""
    wanted = {"evaluate.server": config.evaluate.python} if config.evaluate.server == "vllm" else {}
    if samplers.named(config.grpo) == "vllm_lora":
        wanted["grpo.generation"] = config.grpo.vllm.python
    sampled = f"grpo is sampled by {samplers.why(config.grpo)}"
    if config.placement != "process" or not wanted:
        yield Finding(
            "vLLM", "ok", f"not wanted here; evaluate.server is {config.evaluate.server}; {sampled}"
        )
        return
    for python in dict.fromkeys(wanted.values()):
        fields = ", ".join(field for field, given in wanted.items() if given == python)
        todo = (
            "install it in an environment of its own (docker/vllm.txt), or set evaluate.server and grpo.generation to "
            "transformers"
        )
        try:
            command = serving.vllm(python)
        except UserError as error:
            yield Finding("vLLM", "error", f"{error}; {fields} wants it", todo)
            continue
        if trouble := commands.trouble(command):
            yield Finding("vLLM", "error", f"{trouble}; {fields} wants it", f"{todo}: this one does not run")
        else:
            version = commands.version(command, "vllm")
            yield Finding("vLLM", "ok", f"{command} {version}; for {fields}; {sampled}")


def disk(
    config: Config,
    usage: Callable[[Path], tuple[int, int, int]] = lambda path: shutil.disk_usage(path),
    trains: bool = True,
) -> Iterator[Finding]:
    """The room for the store and for temporary files, in bytes and in files; a data set alone takes less than a training."""
    # Two merged models and the checkpoints of two trainings; the miniature's take megabytes.
    wanted = {
        "store": (config.store, 200 * GB if trains and not is_small(config) else 5 * GB),
        "temporary": (Path(tempfile.gettempdir()), 2 * GB),
    }
    for name, (folder, want) in wanted.items():
        there = _existing(folder)
        total, _, free = usage(there)
        found = f"{folder}: {free / GB:.1f} of {total / GB:.1f} GB free"
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


def filesystem(folder: Path) -> str:
    """The type of the file system that a folder is on, as Linux names it."""
    mounts = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    here = _existing(folder)
    return next((mounts[path] for path in (here, *here.parents) if path in mounts), "an unknown file system")
