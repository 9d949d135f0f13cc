"""One stage of a run that is under way elsewhere: what `placement: pools` starts in the pool of its GPUs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed, Crashed

from sifthinker.config import Config, parse
from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref
from sifthinker.system.disk_errors import explained
from tasks.runtime import end_states, nodes, placement
from tasks.runtime.decide import decide
from tasks.runtime.flow_run import final_state
from tasks.runtime.following import ProgramFailed
from tasks.runtime.identity import differences, key
from tasks.runtime.liveness import alive
from tasks.runtime.make import outcome
from tasks.runtime.stage import Order, Stage
from tasks.stages.depth import depth
from tasks.stages.evaluate import evaluate
from tasks.stages.grpo import grpo
from tasks.stages.merge import merge
from tasks.stages.sft import sft

# What can be placed: the fields of config.Pools; a test compares the two.
STAGES = {stage.name: stage for stage in (depth, sft, merge, grpo, evaluate)}


@flow(name=placement.FLOW)
def stage(
    stage: Literal["depth", "sft", "merge", "grpo", "evaluate"],
    label: str,
    config: dict[str, Any],
    inputs: dict[str, Ref],
    identity: dict[str, Any],
    refresh: bool = False,
    node: int = 0,
) -> State[None]:
    """Makes one artifact of a run in another pool. Started by that run; the form is for looking, not for filling in.

    Args:
        stage: which one
        label: its name in that run, e.g. merge-sft
        config: that run's configuration; paths that begin with "store:" lie in the store
        inputs: the artifacts that it is made from, by name
        identity: what the artifact is to be made from; other code, libraries or data here end the run
        refresh: make it again although it is in the store
        node: of a training on several machines, which one this is; the first, 0, makes the artifact
    """
    return final_state(
        lambda: _stage(STAGES[stage], label, parse(config, label), inputs, identity, refresh, node)
    )


def _stage(
    stage: Stage,
    label: str,
    config: Config,
    inputs: dict[str, Ref],
    identity: dict[str, Any],
    refresh: bool,
    node: int,
) -> State[None]:
    store = Store.of(config)
    with explained(f"store {store.root}"), alive(store):
        several = placement.nodes(config, stage.name) > 1
        if several:  # the flow starts all nodes again: a retry in here would wait for nodes that have gone
            stage = replace(stage, retries=0)
        if not node:
            store.push_pending()  # else what this machine made, and could not upload, is taken for done
        decision = decide(store, stage, label, placement.received(config, store), inputs, refresh)
        if decision.order.key != key(identity):
            reasons = "; ".join(differences(identity, decision.order.identity))
            raise UserError(
                f"{label}: another artifact would be made here than is wanted (flow -> worker): {reasons}; give "
                "this pool's workers the flow's version of the code and of the libraries, and the same data"
            )
        if node:
            return _join(decision.order, store)
        made = outcome(decision, store)
    if not made.is_completed():
        lost = several and isinstance(made.result(raise_on_failure=False), ProgramFailed)
        return Crashed(message=made.message) if lost else end_states.passed_on(made, str(made.message))
    return Completed(name=made.name, message=f"{decision.order.place}/{decision.order.key}")


def _join(order: Order, store: Store) -> State[None]:
    """The part of a node that is not the first: its ranks, and nothing of the artifact."""
    try:
        nodes.join(
            store.work(order.place, order.key),
            store.root,
            order.config.pools.wait * nodes.HOUR,
            get_run_logger(),
            order.label,
        )
    except ProgramFailed as error:
        return Crashed(message=str(error))
    return Completed(message=f"a node of {order.place}/{order.key}")
