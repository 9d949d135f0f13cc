"""The run of a stage in a pool: what each node of a training does, and how its end is told to the flow."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows import stage as flow
from sifthinker.config import Config, parse
from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from tasks.runtime import end_states
from tasks.runtime.following import ProgramFailed
from tasks.stages.sft import sft

ROOT = Path(__file__).resolve().parents[2]
IDENTITY: dict[str, Any] = {"stage": "sft"}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the body of the flow with what the rest of the pipeline does replaced; `retries` are those of its stage."""
    seen = SimpleNamespace(joined=[], retries=None)

    def decide(store: Any, stage: Any, label: str, config: Config, inputs: Any, refresh: bool) -> Any:
        seen.retries = stage.retries
        order = SimpleNamespace(key="k", place="sft", label=label, config=config, identity=IDENTITY)
        return SimpleNamespace(order=order)

    def body(nodes: int, node: int, made: State[Any], join: Exception | None = None) -> State[None]:
        def joined(work: Path, root: Path, wait: float, log: Any, label: str) -> None:
            seen.joined.append((work.name, wait))
            if join:
                raise join

        smoke = yaml.safe_load((ROOT / "flows/configs/smoke.yaml").read_text())
        smoke["sft"] |= {"ranks": 2, "nodes": nodes}
        config = parse({**smoke, "store": str(tmp_path)}, "smoke")
        monkeypatch.setattr(flow.nodes, "join", joined)
        monkeypatch.setattr(flow, "outcome", lambda decision, store: made)
        return flow._stage(sft, "sft", config, {}, IDENTITY, False, node)

    monkeypatch.setattr(flow, "decide", decide)
    monkeypatch.setattr(flow, "alive", lambda store: nullcontext())
    monkeypatch.setattr(flow, "key", lambda identity: "k")
    monkeypatch.setattr(flow, "get_run_logger", lambda: logging.getLogger("test"))
    return SimpleNamespace(body=body, seen=seen)


def test_the_first_node_makes_the_artifact_and_another_one_joins_it(run: Any) -> None:
    assert run.body(2, 0, Completed()).is_completed()
    assert run.seen.joined == []
    assert run.body(2, 1, Failed(message="is never asked")).is_completed()
    assert run.seen.joined == [("k.work", 24 * 3600.0)]


def test_a_program_that_fails_on_several_nodes_is_left_to_the_flow_which_starts_all_of_them_again(
    run: Any,
) -> None:
    failed: State[Any] = Failed(message="node b is lost", data=ProgramFailed("node b is lost"))
    assert run.body(2, 0, failed).is_crashed()
    assert run.seen.retries == 0, "a retry in here would wait for nodes that have gone"
    assert run.body(1, 0, failed).is_failed()
    assert run.seen.retries == sft.retries
    assert run.body(2, 1, Completed(), join=ProgramFailed("the first node is lost")).is_crashed()


def test_a_users_mistake_is_not_started_again_on_any_node(run: Any) -> None:
    mistake = run.body(2, 0, end_states.failed(UserError("sft: rank 1: no such colour")))
    assert end_states.is_mistake(mistake), "the flow that waits for this run tells it on"
    assert not end_states.is_mistake(run.body(2, 0, Failed(message="sft: rank 1 failed")))
    with pytest.raises(UserError, match="no such colour"):  # the flow's final state tells it then
        run.body(2, 1, Completed(), join=UserError("no such colour"))


def test_what_this_machine_made_and_could_not_upload_is_uploaded_before_it_is_taken_for_done(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads: list[Store] = []
    monkeypatch.setattr(Store, "push_pending", lambda store: uploads.append(store))
    run.body(1, 0, Completed())
    assert len(uploads) == 1
    run.body(2, 1, Completed())
    assert len(uploads) == 1, "a node that joins makes nothing"
