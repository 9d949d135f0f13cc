"""Clears the store of artifacts that no pinned and no recent run reaches; a dry run unless told otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed
from pydantic import Field

from sifthinker.store.artifacts import Store
from sifthinker.upkeep.prune import Rules, check, running, summary
from tasks.operations.kept_store import kept
from tasks.operations.prune import clear, over
from tasks.runtime.flow_run import final_state
from tasks.runtime.liveness import sweep
from tasks.runtime.stage_results import RESULTS


@flow(name="prune")
def prune(
    store: Path = Path("artifacts"),
    apply: bool = False,
    days: Annotated[float, Field(ge=0)] = 14,
    runs: Annotated[int, Field(ge=0)] = 5,
    remote: str = "",
) -> State[str]:
    """Removes from a store what nobody needs: old artifacts that no pinned or recent run reaches, leftovers of kills.

    Args:
        store: folder of the artifacts
        apply: remove; otherwise only say what would go, how much that is, and why
        days: what was made or used within so many days stays, with all it was made from
        runs: what the latest so many runs made or took stays, however old
        remote: address of the store's copy on an object store (s3://bucket/prefix), which is pruned too; empty: SIF_REMOTE of the worker's environment, or the one that the folder remembers
    """
    return final_state(lambda: _prune(kept(store, remote), apply, days, runs))


def _prune(opened: Store, apply: bool, days: float, runs: int) -> State[str]:
    for swept in sweep(opened):  # what was killed is over, and may go
        get_run_logger().warning("%s", swept)
    found = clear(opened, Rules(days, runs, over(running(opened)), RESULTS.keys()), apply)
    check(found)
    text = summary(found, removed=apply)
    return Completed(message=text, data=text)
