"""Every night: the promoted checkpoints on the benchmarks, held against the last good night and the baseline."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from flows import form, run_names, tracked
from flows.form import ConfigText, Settings
from sifthinker.config import Config
from sifthinker.config.choices import suggestion
from sifthinker.core.errors import UserError
from sifthinker.evaluation import history, running_server
from sifthinker.evaluation.benchmarks import SAMPLED
from sifthinker.evaluation.nights.forecast import Expected
from sifthinker.evaluation.nights.records import Night, Outcome
from sifthinker.store.artifacts import Store
from tasks.operations.nightly import compare, each, foreseen, pinned
from tasks.runtime.flow_run import final_state
from tasks.runtime.liveness import alive
from tasks.runtime.pipeline import Partial, Pending, Run, carry_out
from tasks.runtime.placement import settled
from tasks.runtime.stage import StageFailed
from tasks.stages.scenes import scenes
from tasks.stages.weights import depth_weights

# Names of states; infra/alert_triggers.py has each of them, and the two below.
FAILED = {history.REGRESSED: "Regressed", history.NOT_RUN: "NotRun", history.INCONCLUSIVE: "Inconclusive"}
WARNED = "Warned"
SKIPPED = "Skipped"
EXIT_CODES = {"Regressed": 1, "NotRun": 3, "Inconclusive": 4, WARNED: 5}  # of `sif nightly`; 2 is wrong usage


def evening(run: Run, night: str, started: datetime) -> Outcome:
    """What happens, in order: a look of each tier, until one decides."""
    if run.config.scenes:
        run.provide(run(scenes))
    running_server.check(run.config.evaluate.server)
    estimator = run(depth_weights)
    configured, looked = run.config, list[Outcome]()
    for tier in configured.nightly.chain:
        run.config = of_tier(configured, tier)
        choose(run)
        identifier = f"{night}-{tier}" if looked else night
        baseline, lost = pinned(run, estimator, f"-{tier}" if looked else "")
        if run.config.nightly.fresh:  # not the baseline: its replies are remembered
            again(run, identifier)
        made, failed = each(run, run.config.nightly.models, estimator, f"-{tier}" if looked else "")
        held = Night(identifier, started, run.config)
        looked.append(compare(run.store, held, made, failed, baseline, lost))
        if not looked[-1].leaves_open:
            break
    return followed(looked, configured.nightly.chain)


def followed(looked: Sequence[Outcome], tiers: Sequence[str]) -> Outcome:
    """The last look's outcome, which says what the looks before it left open."""
    *earlier, last = looked
    before = ", ".join(f"{tier} {outcome.outcome}" for tier, outcome in zip(tiers, earlier, strict=False))
    return (
        replace(last, message=f"{last.message} (tier {tiers[len(earlier)]}, after {before})")
        if earlier
        else last
    )


@flow(name="nightly")
def nightly(
    config: ConfigText = "nightly",
    set: Settings = "",
    tier: str = "",
    models: list[str] = [],  # noqa: B006 (never changed; a form shows an empty list)
    benchmarks: list[str] = [],  # noqa: B006
    fresh: bool = False,
) -> State[str]:
    """Evaluates the promoted checkpoints and fails when a benchmark got significantly worse.

    It ends as Completed when every comparison could have failed and none did; as "Warned" when, besides, something fell
    by more than its margin or many replies became unparsable; as the failure "Regressed", with a table; as the failure
    "Inconclusive" when too few questions were asked to find any fall; as the failure "NotRun" when a server was down or
    files were missing, which says nothing about the models; or, started too late to be of use, as "Skipped". A night that
    is tried again is never too late.

    Args:
        config: the name of a configuration (nightly, ...), or YAML; its `nightly` says what is evaluated and what fails
        set: settings on top of it, one a line: nightly.margin=0.02
        tier: begin with this one of nightly.tiers (quick, nightly, weekly); another may follow where it leaves a question open
        models: instead of the configured ones: aliases, 'latest', runs, STAGE/KEY of an artifact, or folders
        benchmarks: only these, by name
        fresh: ask every question again, whatever was answered before
    """

    def work() -> State[str]:
        configured = chosen(form.configuration(config, set), models, benchmarks, fresh, tier.strip() or None)
        return _begun(configured, form.lines(set))

    return final_state(work)


def _begun(config: Config, lines: Sequence[str]) -> State[str]:
    """The night, or its skipping where it starts too late."""
    context = FlowRunContext.get()
    assert context and context.flow_run
    run, started = context.flow_run, datetime.now(UTC)
    name = run_names.call(" ".join([f"{config.name} {started:%Y-%m-%d}", *run_names.settings(lines)]))
    late = (started - (run.expected_start_time or started)).total_seconds() / 3600
    if late > config.nightly.max_late and not _tried_before(run):
        why = f"{late:.1f} h late: given up, nothing was evaluated; the next night comes"
        return Completed(name=SKIPPED, message=why)
    return _nightly(config, str(run.id), name, started)


def _tried_before(run: FlowRun) -> bool:
    """Whether an attempt came before this one: somebody's Retry, or the one after a machine that went away.

    Such a run keeps the time at which the night was due. One that was closed before it began has no attempt that counts,
    but an end before this one.
    """
    if run.run_count > 1:
        return True
    with get_client(sync_client=True) as client:
        return any(state.is_final() for state in client.read_flow_run_states(run.id))


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
    except (UserError, StageFailed) as error:
        get_run_logger().error("%s", error)
        # Where there is a verdict, it stands: what failed came after it, such as the upload of the run's record.
        if outcome is None:
            why = dict.fromkeys(config.nightly.models, str(error))
            outcome = compare(store, Night(night, started, config), [], why, None)
    assert outcome, "the night was carried out"
    tracked.end(config, Completed())
    if state := FAILED.get(outcome.outcome):
        return Failed(name=state, message=outcome.message)
    warned = WARNED if outcome.outcome == history.WARNED else None
    return Completed(name=warned, message=outcome.message, data=str(outcome.report))


def of_tier(config: Config, name: str) -> Config:
    """The configuration of the look of one tier. The looks that a night may come to share its level."""
    settings = config.nightly
    tier = settings.tiers[name]
    limits = [limit for limit in (config.evaluate.limit, tier.limit) if limit is not None]
    nightly = {
        "level": settings.level / len(settings.chain),
        "benchmarks": tier.benchmarks or settings.benchmarks,
        "fresh": settings.fresh or tier.fresh,
    }
    return config.model_copy(
        update={
            "nightly": settings.model_copy(update=nightly),
            "evaluate": config.evaluate.model_copy(update={"limit": min(limits, default=None)}),
        }
    )


def plan(config: Config) -> list[Expected]:
    """What the first look of a night will be able to find, without asking anything.

    Raises:
        UserError: a benchmark of the night is not configured, or rendered scenes are not made yet.
    """
    store = Store.of(config)
    run = Run(config, Partial(), store, lambda found, _: found.artifact.ref if found.artifact else None)
    if run.config.scenes:
        rendered = run(scenes)
        if isinstance(rendered, Pending):
            raise UserError(
                "nightly --plan: the rendered scenes are not in the store; run a night or `sif run` first"
            )
        run.provide(rendered)
    run.config = of_tier(run.config, config.nightly.tier)
    choose(run)
    return foreseen(run)


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


def chosen(
    config: Config, models: list[str] | None, benchmarks: list[str] | None, fresh: bool, tier: str | None
) -> Config:
    """The configuration with what the run's parameters say.

    Raises:
        UserError: there is no such tier, or a benchmark is named that is not configured.
    """
    settings = config.nightly
    if tier is not None and tier not in settings.tiers:
        raise UserError(f"tier: there is no {tier}; nightly.tiers has: {', '.join(settings.tiers)}")
    update = {
        "models": tuple(models or settings.models),
        "benchmarks": tuple(benchmarks or settings.benchmarks),
        "fresh": fresh or settings.fresh,
        "tier": tier or settings.tier,
    }
    if benchmarks:  # what is asked for by name holds for every tier
        update["tiers"] = {
            name: of.model_copy(update={"benchmarks": ()}) for name, of in settings.tiers.items()
        }
    night = config.model_copy(update={"nightly": settings.model_copy(update=update)})
    check(night)
    return night


def check(config: Config) -> None:
    """Whether the benchmarks that a night names are there, before anything runs.

    Raises:
        UserError: one is neither configured nor rendered with the scenes.
    """
    settings = config.nightly
    rendered = config.scenes.benchmarks if config.scenes else ()
    names = dict.fromkeys([*rendered, *(benchmark.name for benchmark in config.evaluate.benchmarks)])
    sampled = [f"{name}{SAMPLED}" for name in names] if config.evaluate.sampled is not None else []
    fields: dict[str, Collection[str]] = {"benchmarks": settings.benchmarks, "margins": settings.margins}
    fields |= {f"tiers.{tier}.benchmarks": settings.tiers[tier].benchmarks for tier in settings.chain}
    for field, named in fields.items():
        known = [*names, *sampled] if field == "margins" else [*names]
        if unknown := [name for name in named if name not in known]:
            raise UserError(
                f"nightly.{field}: {', '.join(unknown)} not configured{suggestion(unknown[0], known)}; evaluate.benchmarks and "
                f"scenes.benchmarks have: {', '.join(known) or 'none'}"
            )
