"""The body of a flow: a pipeline planned, shown and carried out, and the final state that its errors become."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Completed

from sifthinker.config import Config
from sifthinker.core import images
from sifthinker.core.errors import UserError
from sifthinker.reporting import lineage_picture
from sifthinker.store import lineage, runs
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Damaged, Ref
from sifthinker.system.disk_errors import explained
from tasks.runtime import end_states, links, placement, ui_artifacts
from tasks.runtime.liveness import RunCancelled, alive
from tasks.runtime.pipeline import Partial, Pipeline, carry_out, plan
from tasks.runtime.planned import Planned, refuse
from tasks.runtime.refreshed import Refreshed
from tasks.runtime.server_away import ServerAway
from tasks.runtime.stage import PAGE, StageFailed

T = TypeVar("T")


def final_state(work: Callable[[], State[T]]) -> State[T]:
    """Does the work of a flow. A cancellation or an error that says what to do becomes the flow's final state.

    A mistake of the user's gives the state a name of its own (`end_states`). Any other exception is a bug of ours. It
    passes, and Prefect shows its traceback.
    """
    end_states.tell_once()
    try:
        return work()
    except RunCancelled as error:
        return Cancelled(message=str(error))
    except (UserError, StageFailed, Damaged, ServerAway) as error:
        get_run_logger().error("%s", error)
        return end_states.failed(error)


def run_flow(pipeline: Pipeline, config: Config, partial: Partial) -> State[dict[str, str]]:
    """Plans a pipeline, shows the plan, and carries it out; the artifacts by label as `<stage>/<key>`."""
    return final_state(lambda: _run(pipeline, config, partial))


def _run(pipeline: Pipeline, config: Config, partial: Partial) -> State[dict[str, str]]:
    context = FlowRunContext.get()
    assert context and context.flow_run
    if (
        partial.refresh and partial.refreshed is None
    ):  # a Retry goes on from what its first attempt has made again
        partial = replace(partial, refreshed=Refreshed(str(context.flow_run.id)))
    store = Store.of(config)
    with explained(f"store {store.root}"), alive(store):
        config = placement.settled(config)
        planned = plan(pipeline, config, partial, store)
        ui_artifacts.markdown(plan_table(planned), "plan", "What runs, and why")
        refuse(planned)
        made = carry_out(pipeline, config, partial, store, str(context.flow_run.id), context.flow_run.name)
        show_lineage(store, made)
        if report := made.get("report"):
            show_report(store, report)
    return Completed(
        message=f"{len(made)} stages", data={label: f"{r.stage}/{r.key}" for label, r in made.items()}
    )


def plan_table(planned: list[Planned]) -> str:
    """A plan in Markdown."""
    lines = ["| stage | | where | why | rows | last time | expected |", "|---|---|---|---|---|---|---|"]
    for p in planned:
        seconds = f"{p.seconds:.0f} s" if p.seconds is not None else ""
        why = "; ".join([*p.reasons, *(f"lacks {what}" for what in p.lacks)])
        lines.append(
            f"| {p.label} | {p.verdict} | {p.where} | {why} | {p.rows or ''} | {seconds} | {p.expects} |"
        )
    return "\n".join(lines)


def show_report(store: Store, report: Ref) -> None:
    """Shows the short page of a report, and where the whole one is, whether this run made it or found it."""
    folder = store.open(report).path
    whole = links.shown(store.root, folder / links.PAGES["report"], "Open the whole report")
    text = f"{whole}\n\n{(folder / PAGE).read_text(encoding='utf-8')}"
    ui_artifacts.markdown(text, "report-page", "The report in short")


def show_lineage(store: Store, made: Mapping[str, Ref]) -> None:
    """Shows what the final model of a run was made from, as a picture and a table."""
    ref = runs.final(made)
    if ref is None:
        return
    log = get_run_logger()
    try:
        nodes = lineage.trace(store.manifest, ref)
        drawn = images.data_url(lineage_picture.picture(nodes), "image/png")
        title = f"What {ref.stage}/{ref.key} was made from"
        text = f"![{title}]({drawn})\n\n{lineage.table(nodes)}"
    except Exception:  # a picture that cannot be drawn must not fail a run that made everything
        log.exception("the lineage is not shown")
    else:
        ui_artifacts.markdown(text, "lineage", title)
