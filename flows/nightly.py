"""Every night: the promoted checkpoints on the benchmarks, held against the last good night and the baseline."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.evaluation import history, running_server
from sifthinker.evaluation.nights.records import Night, Outcome
from sifthinker.store.artifacts import Store
from tasks.operations.nightly import compare, each, pinned
from tasks.runtime.flow_run import final_state
from tasks.runtime.liveness import alive
from tasks.runtime.pipeline import Partial, Run, carry_out
from tasks.runtime.placement import settled
from tasks.runtime.stage import StageFailed
from tasks.stages.scenes import scenes
from tasks.stages.weights import depth_weights

# Names of states; infra/alerts.py tells people of each of them.
FAILED = {history.REGRESSED: "Regressed", history.NOT_RUN: "NotRun", history.INCONCLUSIVE: "Inconclusive"}
WARNED = "Warned"
EXIT_CODES = {"Regressed": 1, "NotRun": 3, "Inconclusive": 4, WARNED: 5}  # of `sif nightly`; 2 is wrong usage


def evening(run: Run, night: str, started: datetime) -> Outcome:
    """What happens, in order."""
    if run.config.scenes:
        run.provide(run(scenes))
    choose(run)
    running_server.check(run.config.evaluate.server)
    estimator = run(depth_weights)
    baseline = pinned(run, estimator)
    if run.config.nightly.fresh:
        again(run, night)
    made, failed = each(run, run.config.nightly.models, estimator)
    return compare(run.store, Night(night, started, run.config), made, failed, baseline)


@flow(name="nightly", flow_run_name="{config.name}")
def nightly(
    config: Config,
    models: list[str] | None = None,
    benchmarks: list[str] | None = None,
    fresh: bool = False,
) -> State[str]:
    """Evaluates the promoted checkpoints and fails when a benchmark got significantly worse.

    It ends as Completed when every comparison could have failed and none did; as "Warned" when, besides, something fell
    by more than its margin or many replies became unparsable; as the failure "Regressed", with a table; as the failure
    "Inconclusive" when too few questions were asked to find any fall; as the failure "NotRun" when a server was down or
    files were missing, which says nothing about the models; or, started too late to be of use, as "Skipped".

    Args:
        config: as for the reproduction; `nightly` says what is evaluated and what fails the night
        models: instead of the configured ones: aliases, 'latest', runs, <stage>/<key>, or folders
        benchmarks: only these, by name
        fresh: ask every question again, whatever was answered before
    """
    context = FlowRunContext.get()
    assert context and context.flow_run
    run, started = context.flow_run, datetime.now(UTC)
    config = _chosen(config, models, benchmarks, fresh)
    late = (started - (run.expected_start_time or started)).total_seconds() / 3600
    if late > config.nightly.max_late:
        return Completed(name="Skipped", message=f"{late:.1f} h late: given up, the next night comes")
    return final_state(lambda: _nightly(config, str(run.id), run.name, started))


def _nightly(config: Config, night: str, name: str, started: datetime) -> State[str]:
    outcome: Outcome | None = None

    def pipeline(run: Run) -> None:
        nonlocal outcome
        outcome = evening(run, night, started)

    store = Store.of(config)
    try:
        with alive(store):
            config = settled(config)
            carry_out(pipeline, config, Partial(), store, night, name)
    except (UserError, StageFailed) as error:  # before anything could be evaluated
        get_run_logger().error("%s", error)
        why = dict.fromkeys(config.nightly.models, str(error))
        outcome = compare(store, Night(night, started, config), [], why, None)
    assert outcome, "the night was carried out"
    if state := FAILED.get(outcome.outcome):
        return Failed(name=state, message=outcome.message)
    warned = WARNED if outcome.outcome == history.WARNED else None
    return Completed(name=warned, message=outcome.message, data=str(outcome.report))


def choose(run: Run) -> None:
    """Leaves only the benchmarks that the night is about.

    Raises:
        UserError: one of them is not configured.
    """
    wanted = run.config.nightly.benchmarks
    configured = run.config.evaluate.benchmarks
    if unknown := sorted(set(wanted) - {benchmark.name for benchmark in configured}):
        names = ", ".join(sorted({benchmark.name for benchmark in configured}))
        raise UserError(
            f"nightly.benchmarks: {', '.join(unknown)} not configured; evaluate.benchmarks has: {names}"
        )
    if wanted:
        kept = tuple(benchmark for benchmark in configured if benchmark.name in wanted)
        _evaluate(run, benchmarks=kept)


def again(run: Run, night: str) -> None:
    """Has every question asked in this night, by a name under which no reply is remembered."""
    _evaluate(run, fresh=night)


def _evaluate(run: Run, **update: object) -> None:
    run.config = run.config.model_copy(update={"evaluate": run.config.evaluate.model_copy(update=update)})


def _chosen(config: Config, models: list[str] | None, benchmarks: list[str] | None, fresh: bool) -> Config:
    """The configuration with what the run's parameters say."""
    settings = config.nightly
    update = {
        "models": tuple(models or settings.models),
        "benchmarks": tuple(benchmarks or settings.benchmarks),
        "fresh": fresh or settings.fresh,
    }
    return config.model_copy(update={"nightly": settings.model_copy(update=update)})
