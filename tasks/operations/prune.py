"""What a pruning needs of Prefect: which runs have ended, and a table of what was removed that people look at."""

from collections.abc import Sequence
from uuid import UUID

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.logging import get_run_logger

from sifthinker.store.artifacts import Store
from sifthinker.upkeep.prune import Rules, Survey, remove, size, summary, survey
from tasks.runtime import ui_artifacts

PAGE = 100  # ids in one question to the server
SHOWN = 200  # rows of the table in the UI


def over(ids: Sequence[str]) -> set[str]:
    """Those of the flow runs that have ended, as the server knows it; one that it does not know may be anywhere."""
    ended: set[str] = set()
    with get_client(sync_client=True) as client:
        for start in range(0, len(ids), PAGE):
            asked = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(i) for i in ids[start : start + PAGE]]))
            runs = client.read_flow_runs(flow_run_filter=asked)
            ended |= {str(run.id) for run in runs if run.state and run.state.is_final()}
    return ended


@task(cache_policy=NO_CACHE, task_run_name="clear")
def clear(store: Store, rules: Rules, apply: bool) -> Survey:
    """Looks, removes where `apply` says so, and shows what and why."""
    found = survey(store, rules)
    if apply:
        found = remove(store, rules, found)
    text = summary(found, removed=apply)
    rows = [
        f"| {thing.kind} | `{thing.path}` | {size(thing.bytes)} | {thing.why} |"
        for thing in found.doomed[:SHOWN]
    ]
    more = [f"\nand {len(found.doomed) - SHOWN} more"] if len(found.doomed) > SHOWN else []
    stuck = [f"* could not be removed: {line}" for line in found.stuck[:SHOWN]]
    lines = [text, "", *stuck, "", "| | what | size | why |", "|---|---|---|---|", *rows, *more]
    ui_artifacts.markdown("\n".join(lines), "prune", "What goes, and why")
    get_run_logger().info("%s", text)
    return found
