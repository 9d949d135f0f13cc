"""Where stages run, and what is sent there. That they run there: tests/flows/test_placement.py."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from prefect.client.schemas.objects import State, StateType

from flows.reproduce import reproduction
from flows.stage import STAGES, stage
from sifthinker.config import Config, Pools, parse
from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref
from tasks.runtime import end_states, placement
from tasks.runtime.decide import decide
from tasks.runtime.flow_run import plan_table
from tasks.runtime.identity import differences
from tasks.runtime.pipeline import Partial, plan
from tasks.runtime.stage import Order

ROOT = Path(__file__).resolve().parents[2]


def config(name: str, **more: Any) -> Config:
    values = yaml.safe_load((ROOT / "flows" / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))
    return parse({**values, "placement": "pools", **more}, name)


def test_what_can_be_placed_is_what_the_configuration_names() -> None:
    assert set(STAGES) == set(placement.stages()) == set(Pools.model_fields) - {"wait", "server_away"}
    assert list(STAGES) == list(get_args(get_type_hints(stage.fn)["stage"]))


@pytest.mark.parametrize(
    ("fields", "name", "there"),
    [
        ({}, "sft", "gpu-8"),
        ({}, "depth", "gpu-1"),
        ({}, "annotate", None),  # needs no GPU
        ({"placement": "process"}, "sft", None),
        ({"pools": {"sft": None}}, "sft", None),
        ({"pools": {"sft": "mine"}}, "sft", "mine"),
    ],
)
def test_a_stage_runs_where_the_configuration_says(
    fields: dict[str, Any], name: str, there: str | None
) -> None:
    assert placement.pool(config("smoke", **fields), name) == there


def test_the_plan_says_where(tmp_path: Path) -> None:
    planned = plan(reproduction, config("smoke", store=str(tmp_path)), Partial(), Store(tmp_path))
    where = {p.label: p.where for p in planned}
    assert where["scenes"] == where["report"] == "here"
    assert where["depth"] == where["merge-sft"] == where["evaluate"] == "pool gpu-1"
    assert where["sft"] == where["grpo"] == "pool gpu-8"
    assert "| grpo | runs | pool gpu-8 |" in plan_table(planned)


def test_where_a_stage_runs_is_no_part_of_what_it_is() -> None:
    here, there = config("smoke", placement="process"), config("smoke", pools={"sft": "mine"})
    for made in STAGES.values():
        assert made.config(here) == made.config(there)


@pytest.mark.parametrize("name", ["smoke", "paper"])
def test_the_other_side_makes_the_same_order_of_what_it_is_sent(name: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    inputs = {
        "base": Ref(stage="merge", key="0" * 20, digest="1"),
        "subset": Ref(stage="s", key="2", digest="3"),
    }
    order = decide(store, STAGES["grpo"], "grpo", config(name, store=str(tmp_path)), inputs, True).order
    parameters = json.loads(json.dumps(placement.sent(order, store)))  # as the server gives them back
    there = decide(
        store,
        STAGES[parameters["stage"]],
        parameters["label"],
        placement.received(Config.model_validate(parameters["config"]), store),
        {key: Ref(**ref) for key, ref in parameters["inputs"].items()},
        parameters["refresh"],
    ).order
    assert (there.key, there.label, there.refresh) == (order.key, "grpo", True)
    assert placement.pool(there.config, "grpo") is None, "it must not be sent on for ever"
    assert differences(parameters["identity"], dict(there.identity)) == []


def test_paths_in_the_store_are_found_on_a_host_that_has_it_elsewhere(tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    for store in (here, there):
        with store.making(
            "scenes", "0" * 20, {"label": "scenes", "name": "t", "identity": {}, "inputs": {}}
        ) as draft:
            (draft.out / "rows.json").write_text("[]")
    inside, outside = here.folder("scenes", "0" * 20) / "rows.json", Path("/data/rows.json")
    sources = [
        {"name": "rendered", "format": "viscot", "path": str(inside)},
        {"name": "given", "format": "viscot", "path": str(outside)},
    ]
    made = config("smoke", sources=sources, store=str(here.root))
    order = Order(STAGES["depth"], "depth", made, {}, {}, "")
    sent = Config.model_validate(placement.sent(order, here)["config"])
    paths = [source.path for source in placement.received(sent, there).sources]
    assert paths == [there.folder("scenes", "0" * 20) / "rows.json", outside]
    there.discard("scenes", "0" * 20)
    with pytest.raises(UserError, match="all pools need the same store"):
        placement.received(sent, there)


class Server:
    """A Prefect server as a flow sees it that waits for runs of a pool: each look shows the next states."""

    def __init__(self, looks: list[tuple[str, ...]]) -> None:
        self.looks, self.cancelled = looks, list[int]()
        self.now = looks[0]

    def read_flow_run(self, run: int) -> Any:
        if run == 0 and self.looks:
            self.now = self.looks.pop(0)
        name = "Cancelled" if run in self.cancelled else self.now[run]
        kind = {"Running": StateType.RUNNING, "Pending": StateType.PENDING}.get(name)
        state = State(type=kind or StateType[name.upper()], name=name, message=f"of node {run}")
        return SimpleNamespace(state=state)

    def set_flow_run_state(self, run: int, state: Any) -> None:
        self.cancelled.append(run)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        return None


@pytest.mark.parametrize(
    ("looks", "outcome", "cancelled"),
    [
        ([("Running", "Running"), ("Completed", "Running"), ("Completed", "Completed")], "Completed", []),
        ([("Running", "Running"), ("Crashed", "Running")], "Crashed", [1]),  # the second would wait in vain
        ([("Pending", "Running"), ("Running", "Failed")], "Failed", [0]),  # and so would the first
    ],
)
def test_the_runs_of_a_trainings_nodes_begin_and_end_together(
    looks: list[tuple[str, ...]],
    outcome: str,
    cancelled: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, sent = Server(looks), list[dict[str, Any]]()

    def start(name: str, parameters: dict[str, Any], **_: Any) -> Any:
        sent.append(parameters)
        return SimpleNamespace(id=len(sent) - 1)

    monkeypatch.setattr(placement, "run_deployment", start)
    monkeypatch.setattr(placement, "url_for", lambda *_: None)
    monkeypatch.setattr(placement, "get_client", lambda **_: server)
    monkeypatch.setattr(placement, "no_room", lambda *_: "")
    monkeypatch.setattr(placement, "EVERY", 0.001)
    monkeypatch.setattr(placement, "LEAVE", 0.02)
    made = config("smoke", store=str(tmp_path), sft={"ranks": 2, "nodes": 2, "grace": 0})
    order = Order(STAGES["sft"], "sft", made, {}, {}, "")
    log = logging.getLogger("test")
    state = placement.elsewhere(order, "gpu-8", Store(tmp_path), log)
    assert state.is_completed() == (outcome == "Completed")
    assert end_states.is_lost(state) == (outcome == "Crashed"), "of which the stage is tried again"
    said = {"Completed": "by pool gpu-8", "Crashed": "of node 0", "Failed": "of node 1"}
    assert said[outcome] in str(state.message)
    assert [parameters["node"] for parameters in sent] == [0, 1]
    assert server.cancelled == cancelled


@pytest.mark.parametrize(
    ("limit", "wanted", "refused"), [(1, 2, True), (2, 2, False), (None, 2, False), (1, 1, False)]
)
def test_a_pool_that_takes_fewer_runs_than_there_are_nodes_is_refused_before_any_starts(
    limit: int | None, wanted: int, refused: bool
) -> None:
    client: Any = SimpleNamespace(read_work_pool=lambda name: SimpleNamespace(concurrency_limit=limit))
    said = placement.no_room(client, "gpu-8", wanted)
    assert bool(said) == refused
    assert not refused or "set-concurrency-limit gpu-8 2" in said
