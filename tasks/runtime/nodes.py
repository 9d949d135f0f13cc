"""A training on several machines: a launcher (torchrun) on each node, which find each other through the store.

The first node makes the artifact, as any run does. It writes `rendezvous.json` into the stage's work folder: where its
launcher waits (torchrun's c10d rendezvous), how many nodes there are, and a beat. A node that `joins` finds the file,
starts its launcher with the same configuration, and writes a beat of its own. The ranks of all nodes are one training:
ZeRO-3 divides over them, checkpoints lie in the one work folder, and a signal to any rank stops all.

The store is the one thing that nodes share, perhaps under another path on each. A node is lost when its program ends
early, or when its beat stays out. Then the others end: at once where their ranks notice, else within `LOST` seconds.
Clocks may differ between nodes, so a beat is a number that changes, not a time.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from sifthinker.config import Train
from sifthinker.core.errors import UserError
from sifthinker.system import processes
from sifthinker.system.files import read_json, write_json
from tasks.runtime import following
from tasks.runtime.following import ProgramFailed
from tasks.runtime.stage import Job
from tasks.runtime.stage_log import Log

FILE = "rendezvous.json"
ADDRESS = "SIF_NODE_ADDRESS"  # variable: the address by which other nodes reach this one
HOUR = 3600.0
BEAT = 5.0  # seconds between two beats
LOST = 60.0  # seconds without a beat after which a node counts as lost
LEAVE = 15.0  # seconds between the end of one node's program and that of the others


class NoFirstNode(UserError):
    """There is no training that this node could take part in."""


@dataclass(frozen=True)
class Rendezvous:
    """What a node has to know to take part."""

    id: str  # of this start
    endpoint: str  # host:port of the first node's launcher
    nodes: int
    ranks: int  # a node
    module: str  # the program
    python: str  # the configured interpreter, under the same path on each node; empty: each node's own
    root: str  # of the store on the first node: its configuration's paths start there
    grace: float  # seconds for the checkpoint of a training that is told to stop
    wait: float  # seconds that launchers wait for each other

    def command(self, config: Path, first: bool) -> list[str]:
        """The launcher of a node.

        Args:
            config: of the program, with this node's paths.
            first: it is the node where the launchers meet.
        """
        host = self.endpoint.rpartition(":")[0]
        return [
            *(self.python or sys.executable, "-m", "torch.distributed.run"),
            *(f"--nnodes={self.nodes}", f"--nproc-per-node={self.ranks}", "--max-restarts=0"),
            *("--rdzv-backend=c10d", f"--rdzv-endpoint={self.endpoint}", f"--rdzv-id={self.id}"),
            f"--rdzv-conf=is_host={'true' if first else 'false'},join_timeout={self.wait:.0f}",
            f"--local-addr={host if first else address(host)}",
            *("-m", self.module, str(config)),
        ]


class Beats:
    """Another node's beat, as this node sees it."""

    def __init__(self, file: Path) -> None:
        """Has seen nothing yet."""
        self.file = file
        self.first = self.said = read_json(file)
        self.heard = time.monotonic()

    def look(self) -> dict[str, Any]:
        """What the file says now; empty where it is gone."""
        if (said := read_json(self.file)) != self.said:
            self.said, self.heard = said, time.monotonic()
        return self.said

    @property
    def lost(self) -> bool:
        """Whether it is gone, or silent for too long."""
        return not self.look() or time.monotonic() - self.heard > LOST


class Beating:
    """A file of this node, renewed while it takes part."""

    def __init__(self, file: Path, said: dict[str, Any]) -> None:
        """Writes the file."""
        self.file, self.said, self.count, self.beaten = file, said, 0, 0.0
        self.beat()

    def beat(self) -> None:
        """Renews the file, where it is time to."""
        if self.count and time.monotonic() - self.beaten < BEAT:
            return
        self.count, self.beaten = self.count + 1, time.monotonic()
        write_json(self.file, {**self.said, "beat": self.count})


class First:
    """The first node, while its program runs: it beats, and looks after the others."""

    def __init__(self, job: Job, module: str, python: str, options: Train) -> None:
        """Invites the others."""
        for left in job.work.glob("node-*.json"):
            left.unlink()
        root = str(job.store.root)
        self.rendezvous = Rendezvous(
            id=uuid.uuid4().hex,
            endpoint=f"{address()}:{_free_port()}",
            nodes=options.nodes,
            ranks=options.ranks_a_node,
            module=module,
            python=python,
            root=root,
            grace=options.grace,
            wait=job.config.pools.wait * HOUR,
        )
        self.job, self.beating = job, Beating(job.work / FILE, asdict(self.rendezvous))
        self.others: dict[Path, Beats] = {}
        job.log.info(
            "%s: waits for %d more nodes at %s; with placement: pools they come by themselves, else run `sif join %s` on "
            "each",
            *(job.order.label, options.nodes - 1, self.rendezvous.endpoint, root),
        )

    def command(self, config: Path) -> list[str]:
        """This node's launcher. It waits for the others as long as a stage waits for its pool."""
        return self.rendezvous.command(config, first=True)

    def look(self) -> None:
        """Is called again and again while the program runs.

        Raises:
            ProgramFailed: a node that has joined is lost.
        """
        self.beating.beat()
        for file in set(self.job.work.glob("node-*.json")) - self.others.keys():
            self.others[file] = Beats(file)
            self.job.log.info("%s: node %s has joined", self.job.order.label, file.stem.removeprefix("node-"))
        for file, beats in self.others.items():
            if beats.lost and time.monotonic() - beats.heard > LEAVE:
                name = file.stem.removeprefix("node-")
                raise ProgramFailed(
                    f"{self.job.order.label}: node {name} is lost; its log is in {self.job.work}. The next start goes on "
                    "from the last complete checkpoint"
                )


@contextmanager
def first(job: Job, module: str, python: str, options: Train) -> Iterator[First]:
    """The first node of a training, while its program runs."""
    node = First(job, module, python, options)
    try:
        yield node
    finally:
        (job.work / FILE).unlink(missing_ok=True)


def join(work: Path, root: Path, wait: float, log: Log, label: str = "training") -> None:
    """Takes part in a training: waits for its first node, runs this node's ranks, and ends with the others.

    Args:
        work: the stage's work folder.
        root: of the store, on this node.
        wait: seconds until the first node has to be there.
        log: takes what happens.
        label: of the stage in messages.

    Raises:
        NoFirstNode: the first node did not come.
        UserError: the program was ended by a user's mistake.
        ProgramFailed: the program failed, or the first node is lost.
    """
    there = _meet(work, wait, label)
    said = {name: there.first[name] for name in Rendezvous.__dataclass_fields__}
    rendezvous = Rendezvous(**said)
    name = f"{socket.gethostname()}-{os.getpid()}"
    config, output = work / f"config-{name}.yaml", work / f"log-{name}.txt"
    _localize(work / "config.yaml", Path(rendezvous.root), root, config)
    command = rendezvous.command(config, first=False)
    log.info("%s: joins at %s: %s (log: %s)", label, rendezvous.endpoint, " ".join(command), output)
    with output.open("ab") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=following.environment(work, rendezvous.grace),
            start_new_session=True,
        )
    left = {**processes.here(process.pid), "owner": processes.here(os.getpid()), "grace": rendezvous.grace}
    beating = Beating(work / f"node-{name}.json", left)
    try:
        while process.poll() is None:
            time.sleep(following.EVERY)
            beating.beat()
            gone = there.lost or there.said["id"] != rendezvous.id
            if gone and time.monotonic() - there.heard > LEAVE:
                raise ProgramFailed(
                    f"{label}: the first node of the training, {rendezvous.endpoint}, is lost"
                )
    finally:
        following.end(process.pid, rendezvous.grace)
        for own in (beating.file, config):
            own.unlink(missing_ok=True)
    following.explain(work, label, process.returncode, output)


def _meet(work: Path, wait: float, label: str) -> Beats:
    """Returns when a first node shows signs of life. A file of a killed one does not change any more."""
    began = time.monotonic()
    beats = Beats(work / FILE)
    while True:
        time.sleep(following.EVERY)
        now = beats.look()
        if now and beats.first and now["id"] == beats.first["id"] and now != beats.first:
            return beats
        if now and (not beats.first or now["id"] != beats.first["id"]):
            beats.first = now
        if time.monotonic() - began > wait:
            raise NoFirstNode(f"{label}: the first node did not start within {wait:.0f} s; see its run")


def _localize(config: Path, there: Path, here: Path, out: Path) -> None:
    """Writes a program's configuration with the store's paths as they are on this node."""

    def local(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: local(item) for name, item in value.items()}
        if isinstance(value, list):
            return [local(item) for item in value]
        if isinstance(value, str) and Path(value).is_relative_to(there):
            return str(here / Path(value).relative_to(there))
        return value

    values = local(yaml.safe_load(config.read_text(encoding="utf-8")))
    out.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def address(towards: str = "192.0.2.1") -> str:
    """The address of this machine as others reach it: `SIF_NODE_ADDRESS`, or that of its route to a host.

    Nothing is sent. The default host is one that does not exist (RFC 5737): the default route counts.
    """
    if given := os.environ.get(ADDRESS):
        return given
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect((towards, 9))
        return str(probe.getsockname()[0])
    return "127.0.0.1"  # a machine without a network: its nodes are all here


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
