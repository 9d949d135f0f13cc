"""The flow goes on with what another machine has made, and not with an old or damaged copy of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.states import Completed

from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref
from tasks.runtime import cluster, make
from tasks.runtime.decide import Decision
from tasks.runtime.elsewhere import Elsewhere
from tasks.runtime.stage import Order
from tasks.stages.grpo import grpo

LOG = logging.getLogger("test")


def put(store: Store, text: str, place: str = "grpo") -> Ref:
    with store.making(place, "k", {"label": "grpo"}) as draft:
        (draft.out / "history.jsonl").write_text(text)
    found = store.find(place, "k")
    assert found
    return found.ref


def spoil(store: Store, place: str = "grpo") -> None:
    file = store.folder(place, "k") / "history.jsonl"
    file.chmod(0o644)
    file.write_text("rotten")


class Machines:
    """A flow and a pool with stores of their own, and one remote."""

    def __init__(self, root: Path, bucket: str, patch: pytest.MonkeyPatch) -> None:
        self.flow, self.pool, self.patch = Store(root / "flow", bucket), Store(root / "pool", bucket), patch
        patch.setattr(make, "get_run_logger", lambda: LOG)
        patch.setattr(make.ui_artifacts, "markdown", lambda *_: None)
        values = {"scenes": {}, "placement": "pools", "store": str(self.flow.root), "remote": bucket}
        self.config = Config.model_validate(values)

    def copied(self) -> None:
        """A report has read the artifact in the flow's process."""
        found = self.flow.find("grpo", "k")
        assert found and found.folder.exists()

    def made(self, name: str | None, does: Callable[[], Any] = lambda: None, refresh: bool = False) -> Any:
        """What the flow's task returns where the pool's run `does` something and completes with a name."""

        def elsewhere(*_: Any) -> Any:
            does()
            return Completed(name=name, message="by pool gpu-8")

        self.patch.setattr(make.placement, "elsewhere", elsewhere)
        order = Order(grpo, "grpo", self.config, {}, {}, "k", refresh)
        return make.make.fn(order, str(self.flow.root))


@pytest.fixture
def machines(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Machines:
    return Machines(tmp_path, bucket, monkeypatch)


def test_what_a_pool_made_again_counts_more_than_the_flows_copy(machines: Machines) -> None:
    old = put(machines.pool, "first")
    machines.copied()
    made = machines.made(None, lambda: put(machines.pool, "trained anew"), refresh=True)
    assert made != old and machines.pool.open(made).ref == machines.flow.open(made).ref == made


def test_a_damaged_copy_of_the_flow_is_replaced_by_the_whole_one_that_a_pool_found(
    machines: Machines,
) -> None:
    ref = put(machines.pool, "first")
    machines.copied()
    spoil(machines.flow)
    state = machines.made("Cached")
    assert state.name == "Cached" and state.data == ref
    assert (machines.flow.open(ref).folder / "history.jsonl").read_text() == "first"


def test_a_pool_with_another_remote_is_explained(machines: Machines) -> None:
    state = machines.made(None)
    assert state.is_failed() and "see that all hosts have one `remote`" in state.message


def test_a_remote_that_is_away_once_a_pool_has_made_it_is_no_reason_to_make_it_again(
    machines: Machines,
) -> None:
    def away(*_: object) -> None:
        raise UserError("the bucket cannot be read: timeout")

    machines.patch.setattr(make.copies, "settle", away)
    state = machines.made(None, refresh=True)
    assert state.is_failed() and state.message == "the bucket cannot be read: timeout"
    assert not make._again(None, None, state)


def test_a_damaged_copy_of_a_shard_is_replaced_by_what_a_dask_worker_found(machines: Machines) -> None:
    ref = put(machines.pool, "part", "grpo.parts")
    found = machines.flow.open(ref)
    assert found.folder.exists()
    spoil(machines.flow, "grpo.parts")
    order = Order(grpo, "grpo", machines.config, {}, {}, "k", part=0)
    decision = Decision(order, None, ("damaged",), None)

    @contextmanager
    def connected(*_: Any) -> Iterator[Any]:
        future = object()
        yield SimpleNamespace(
            submit=lambda *_: future, finished=lambda: [(future, Completed(name="Cached", data=ref))]
        )

    machines.patch.setattr(cluster, "connected", connected)
    whole = SimpleNamespace(parts=("sif",), name="grpo")
    job: Any = SimpleNamespace(
        order=SimpleNamespace(stage=whole, label="grpo"),
        store=machines.flow,
        endpoints=SimpleNamespace(urls={}),
        elsewhere=Elsewhere(),
        log=LOG,
    )
    machines.patch.setattr(make, "_task_elsewhere", lambda order: None)
    assert list(make._made_elsewhere(job, [decision])) == [(decision, ref)]
