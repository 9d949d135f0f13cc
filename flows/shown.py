"""What a run's page shows at its end: what was made, cached or failed, scores, cost, and what differs from the run before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger

from flows.commands import outcome
from flows.labels import LABELS
from sifthinker.config import Config, is_operational
from sifthinker.reporting.markdown import inline
from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from tasks.runtime import identity, links, ui_artifacts

MADE, CACHED, FAILED = "✔ made", "↺ cached", "✘ failed"
MOST = 12  # differing settings that are shown


def end(config: Config, state: State[Any]) -> None:
    """Shows the outcome of the run that is under way, whichever it is."""
    context = FlowRunContext.get()
    assert context and context.flow_run
    run, log = context.flow_run, get_run_logger()
    try:
        text = page(Store.of(config), str(run.id), state)
    except Exception:  # a page that cannot be made must not change how a run ends
        log.exception("the outcome is not shown")
        return
    ui_artifacts.markdown(text, "outcome", f"{run.name}: {state.name}")


def page(store: Store, run_id: str, state: State[Any]) -> str:
    """The outcome of a run in Markdown."""
    record = next((run for run in runs.named(store, run_id) if run["id"] == run_id), None)
    if record is None:  # refused before its first stage
        return f"**{state.name}.** {inline(state.message or '')}"
    made = outcome.rows(store, run_id)
    failed = "" if state.is_completed() else f": {inline(state.message or '')}"
    parts = [f"**{state.name}**{failed}"]
    if report := record["stages"].get("report"):
        file = store.folder("report", report["key"]) / links.PAGES["report"]
        parts.append(links.shown(store.root, file, "Open the report"))
    parts += [
        _stages(made, None if state.is_completed() else _culprit(state, record)),
        f"Took {outcome.took(made)}.",
    ]
    scored = outcome.scored(store, run_id)
    if scored:
        parts.append(_scores(scored))
    parts.append(_against(store, record, _before(store, record)))
    return "\n\n".join(parts)


def _stages(made: list[outcome.Row], culprit: str | None) -> str:
    lines = ["| stage | | rows in | kept | rejected | time | cost |", "|---|---|---|---|---|---|---|"]
    for row in made:
        word = CACHED if row.cached else MADE
        if row.seconds is None:  # pruned since
            lines.append(f"| {row.stage} | gone | | | | | |")
            continue
        time = outcome.duration(row.seconds, row.tries)
        lines.append(
            f"| {row.stage} | {word} | {row.rows_in or 0:,} | {row.kept or 0:,} | {inline(row.why)} "
            f"| {f'({time})' if row.cached else time} | {f'({row.cost})' if row.cached and row.cost else row.cost} |"
        )
    if culprit:
        lines.append(f"| {culprit} | {FAILED} | | | | | |")
    return "\n".join(lines)


def _culprit(state: State[Any], record: Mapping[str, Any]) -> str | None:
    """The stage that a run failed in, as its message begins with it."""
    label = (state.message or "").partition(":")[0]
    return label if label in LABELS and label not in record["stages"] else None


def _scores(scored: list[outcome.Scored]) -> str:
    lines = [
        "| scores | benchmark | metric | official | strict | 95 % | questions |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in scored:
        score = one.score
        if score["missing"]:
            lines.append(f"| {one.label} | {one.benchmark} | not run: {inline(score['missing'])} | | | | |")
            continue
        official, strict, low, high = (_number(score[name]) for name in ("official", "strict", "low", "high"))
        lines.append(
            f"| {one.label} | {one.benchmark} | {one.metric} | {official} | {strict} | {low} to {high} | {score['n']:,} |"
        )
    return "\n".join(lines)


def _before(store: Store, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The latest run before this one of a configuration of the same name that came as far, or else the latest one."""
    earlier = [run for run in runs.runs(store) if run["started"] < record["started"]]
    same = [run for run in earlier if run["config"].get("name") == record["config"].get("name")]
    return next((run for run in same if run["stages"].keys() >= record["stages"].keys()), None) or next(
        iter(same), None
    )


def _against(store: Store, record: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
    if before is None:
        return "No run of this configuration came before."
    lines = [f"**Compared with the run before**, {inline(before['name'])} (`{before['id']}`):", ""]
    old, new = (identity.flatten(run["config"]) for run in (before, record))
    fields = [
        f"* `{field}`: {inline(str(old.get(field)))} → {inline(str(new.get(field)))}"
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field) and not is_operational(field)
    ]
    lines += fields[:MOST] or ["* the same settings"]
    lines += [f"* and {len(fields) - MOST} more settings"] if len(fields) > MOST else []
    then = {(one.label, one.benchmark, one.metric): one.score for one in outcome.scored(store, before["id"])}
    for one in outcome.scored(store, record["id"]):
        earlier = then.get((one.label, one.benchmark, one.metric))
        if earlier and earlier["strict"] is not None and one.score["strict"] is not None:
            change = one.score["strict"] - earlier["strict"]
            lines.append(
                f"* {one.label}, {one.benchmark} {one.metric}: {earlier['strict']:.1f} → {one.score['strict']:.1f} ({change:+.1f})"
            )
    if "evaluate" in record["stages"] and "evaluate" in before["stages"]:
        lines.append(f"* whether that is chance: `sif compare {before['id']} {record['id']}`")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
