"""A run told to MLflow and W&B at its end, where a training of its configuration is told to them (`trackers`)."""

from __future__ import annotations

from typing import Any

from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger

from flows.commands import outcome
from sifthinker.config import Config, is_operational
from sifthinker.core.errors import UserError
from sifthinker.reporting import trackers
from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from tasks.runtime import identity

KINDS = ("official", "strict", "low", "high")


def end(config: Config, state: State[Any]) -> None:
    """Tells the configured trackers of the run under way: settings, scores, artifacts. None of them changes how it ends."""
    context = FlowRunContext.get()
    assert context and context.flow_run
    run_id = str(context.flow_run.id)
    named = tuple(n for n in trackers.TRACKERS if n in (*config.sft.trackers, *config.grpo.trackers))
    log = get_run_logger()
    if not named:
        return
    try:
        store = Store.of(config)
        if told := facts(store, config, run_id, state.is_completed()):
            for line in trackers.tell(named, told, store.root):
                log.info("told %s", line)
    except UserError as error:
        log.error("%s", error)
    except Exception:  # a tracker of somebody else's: it may be away, full, or refuse
        log.exception("trackers: not told of the run's scores and artifacts; they are in the store")


def facts(store: Store, config: Config, run_id: str, completed: bool) -> trackers.Told | None:
    """What is told of a run; None where it ended before its first stage."""
    record = next((run for run in runs.named(store, run_id) if run["id"] == run_id), None)
    if record is None:
        return None
    scores = {
        f"{one.label}/{one.benchmark}/{one.metric}/{kind}": value
        for one in outcome.scored(store, run_id)
        for kind in KINDS
        if (value := one.score[kind]) is not None  # type: ignore[literal-required]
    }
    settings = {
        name: value for name, value in identity.flatten(record["config"]).items() if not is_operational(name)
    }
    artifacts = {
        label: f"{ref['stage']}/{ref['key']} {ref['digest']}" for label, ref in record["stages"].items()
    }
    return trackers.Told(run_id, record["name"], config.name, completed, settings, scores, artifacts)
