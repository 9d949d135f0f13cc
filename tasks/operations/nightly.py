"""What a night does beside its stages: it evaluates what it can, and compares."""

import logging
from collections.abc import Mapping, Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from sifthinker.core.errors import UserError
from sifthinker.evaluation import evaluations, history
from sifthinker.evaluation.nights import compare as domain
from sifthinker.evaluation.nights.forecast import Expected, expected, good_nights
from sifthinker.evaluation.nights.records import Evaluated, Night, Outcome
from sifthinker.store import aliases
from sifthinker.store.artifacts import Store
from sifthinker.store.checkpoints import slug
from sifthinker.store.manifest import Damaged, Ref
from tasks.operations.checkpoint import checkpoint
from tasks.runtime import links, ui_artifacts
from tasks.runtime.pipeline import Pending, Run
from tasks.runtime.stage import StageFailed
from tasks.stages.evaluate import evaluate

# What one checkpoint fails of: its name means nothing, its weights are gone or rotten, its evaluation broke.
ITS_OWN = (UserError, Damaged, StageFailed)


def evaluated(run: Run, name: str, weights: Ref | Pending, mark: str = "") -> Evaluated:
    """A checkpoint's evaluation, made or taken from the store.

    Args:
        run: the night.
        name: of the checkpoint.
        weights: of the depth model.
        mark: ends the stage's label, where a night evaluates the same checkpoint again.

    Raises:
        UserError: there is no such checkpoint, or it is not whole.
        StageFailed: it could not be evaluated.
    """
    model = checkpoint(run, name)
    label = f"evaluate-{slug(name)}{mark}"
    made = run(evaluate, label, model=model, weights=weights)
    assert isinstance(made, Ref), "a night is carried out, not planned"
    folder = run.store.open(made).path
    return Evaluated(name, model.digest, f"{made.stage}/{made.key}", folder, run.decisions[label].cached)


def each(
    run: Run, names: Sequence[str], weights: Ref | Pending, mark: str = ""
) -> tuple[list[Evaluated], dict[str, str]]:
    """The checkpoints that could be evaluated, and why the others could not: one does not stop the others."""
    made: list[Evaluated] = []
    failed: dict[str, str] = {}
    for name in names:
        try:
            made.append(evaluated(run, name, weights, mark))
        except ITS_OWN as error:
            failed[name] = str(error)
    return made, failed


def pinned(run: Run, weights: Ref | Pending, mark: str = "") -> tuple[Evaluated | None, str]:
    """The baseline on the same questions, as its replies are remembered; None when none is pinned.

    Where one is pinned and could not be evaluated, why: it does not stop the checkpoints either.
    """
    name = run.config.nightly.baseline
    try:
        return (evaluated(run, name, weights, mark) if aliases.read(run.store, name) else None), ""
    except ITS_OWN as error:
        return None, str(error)


def foreseen(run: Run) -> list[Expected]:
    """What the night of a run's configuration will be able to find; nothing is asked or made.

    Raises:
        UserError: there is no such checkpoint.
    """
    settings = run.config.nightly
    pin = aliases.read(run.store, settings.baseline)
    since = pin["when"] if pin else 0.0
    rows = history.read(run.store.root / "history")
    good = {
        name: good_nights(rows, name, since, lambda row: domain.evaluation_of(run.store, row))
        for name in settings.models
    }
    baseline = None
    if pin and (found := evaluations.of_model(run.store, Ref(**pin["ref"]))):
        baseline = Evaluated(
            settings.baseline, found.ref.digest, f"{found.ref.stage}/{found.ref.key}", found.path, True
        )
    return expected(run.config, good, baseline)


@task(cache_policy=NO_CACHE, task_run_name="compare")
def compare(
    store: Store,
    night: Night,
    made: Sequence[Evaluated],
    failed: Mapping[str, str],
    baseline: Evaluated | None,
    lost: str = "",
) -> Outcome:
    """Gate, report and history; the table and where the report is as an artifact of the run."""
    outcome = domain.hold(store, night, made, failed, baseline, lost)
    # The message is not there: the table begins with it, a finding a line.
    text = f"{outcome.table}\n\n{links.shown(store.root, outcome.report, 'Open the report')}"
    ui_artifacts.markdown(text, "night", f"The night: {outcome.outcome}")
    level = logging.INFO if outcome.outcome == history.PASSED else logging.WARNING
    get_run_logger().log(level, "%s: %s; report: %s", outcome.outcome, outcome.message, outcome.report)
    return outcome
