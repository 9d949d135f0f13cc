"""Whether a stage runs, and why.

This is decided before anything runs, by the same code that `sif plan` prints from: the key is computed, and the artifact
of that key is looked up in the store and verified.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.reporting import bought
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Artifact, Damaged, Manifest, Ref
from sifthinker.training import samplers
from tasks.runtime import identity, refusal
from tasks.runtime.stage import Order, Stage


class FilesMissing(UserError):
    """Files of the user's that a stage reads are not there; `lacks` says which, one each."""

    def __init__(self, label: str, lacks: tuple[str, ...]) -> None:
        """Of the stage `label`."""
        super().__init__("; ".join(f"{label}: {what}" for what in lacks))
        self.lacks = lacks


@dataclass(frozen=True)
class Decision:
    """Whether a stage runs, and why."""

    order: Order
    artifact: Artifact | None  # the verified hit
    reasons: tuple[str, ...]  # why there is none
    estimate: float | None  # seconds it took the last time

    @property
    def cached(self) -> bool:
        """Whether its artifact is there, so that nothing has to run."""
        return self.artifact is not None


def decide(
    store: Store, stage: Stage, label: str, config: Config, inputs: Mapping[str, Ref], refresh: bool
) -> Decision:
    """Whether the stage's artifact is in the store, whole; and if not, why not.

    Raises:
        FilesMissing: files of the user's that the stage reads are not there.
    """
    config = samplers.resolved(config)
    files = stage.files(config)
    if missing := {name: path for name, path in files.items() if not path.exists()}:
        todo = "correct the path in the configuration, or put the files there (`sif data` says where they are published)"
        raise FilesMissing(
            label, tuple(f"{name}: {path} does not exist; {todo}" for name, path in missing.items())
        )
    of = identity.identity(
        stage.name,
        stage.results.of(config),
        stage.config(config),
        {name: ref.digest for name, ref in inputs.items()},
        {name: store.digests.tree(path) for name, path in files.items()},
    )
    order = Order(stage, label, config, inputs, of, identity.key(of), refresh)
    return lookup(store, order)


def lacks(order: Order) -> tuple[str, ...]:
    """What is not here for a stage that has to be made, and what to do: libraries, and what the stage itself looks for."""
    return (*uninstalled(order), *order.stage.lacks(order.config))


def uninstalled(order: Order) -> tuple[str, ...]:
    """What to do about libraries that a stage needs and this environment has not; empty where it has all of them."""
    if not (absent := identity.absent(order.stage.results.of(order.config))):
        return ()
    return (
        f"{', '.join(absent)} (not installed in {sys.prefix}): pip install -e '.[train]' -c constraints.txt; of the images, "
        "sifthinker-worker and sifthinker-train carry out runs, sifthinker-server does not",
    )


def latest(store: Store, place: str, label: str, name: str) -> Manifest | None:
    """The manifest of the latest artifact of a stage, rather of a configuration of the same name."""
    earlier = [m for m in store.manifests(place) if m["label"] == label]
    return next((m for m in earlier if m["name"] == name), earlier[0] if earlier else None)


def lookup(store: Store, order: Order) -> Decision:
    """The same for an order, whose key is known."""
    # Nobody asks why a shard runs.
    last = latest(store, order.place, order.label, order.config.name) if order.part is None else None
    estimate = bought.seconds(last) if last else None
    if order.refresh:
        return Decision(order, None, ("asked for by `refresh`",), estimate)
    try:
        found = store.find(order.place, order.key)
    except Damaged as damage:
        return Decision(order, None, (f"damaged: {damage}",), estimate)
    if found:
        reason = wrong(order, found)
        return Decision(order, None if reason else found, (reason,) if reason else (), estimate)
    if last is None:
        return Decision(order, None, ("never made",), None)
    reasons = identity.differences(last["identity"], order.identity)
    if reasons and last["name"] != order.config.name:  # else they read as if somebody had changed something
        reasons = [f"never made for {order.config.name}; compared with that of {last['name']}:", *reasons]
    return Decision(order, None, tuple(reasons) or ("its output is gone from the store",), estimate)


def wrong(order: Order, found: Artifact) -> str:
    """Why an artifact of the right key is none that the order can take; empty where it is.

    By now `max_rejected` may be stricter than when it was made. And earlier versions of this program left rows unasked although
    chains were missing.
    """
    if reason := refusal.too_many(order, found.manifest["rows"]):
        return reason
    more = order.stage.further(order.config, [part.manifest["rows"] for part in found.shards.values()])
    return more.said if more else ""
