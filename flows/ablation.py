"""The paper's Table 5: what each part of the method brings. Rows share every stage in which they do not differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows import form, run_names
from flows.form import ConfigText, Settings
from flows.labels import Label
from flows.reproduce import Until, model_made
from sifthinker.config import Config, Variant
from sifthinker.core.errors import UserError
from sifthinker.evaluation.ablation import configured, seeds
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref
from tasks.runtime import end_states, links, ui_artifacts
from tasks.runtime.flow_run import final_state, run_flow
from tasks.runtime.liveness import alive
from tasks.runtime.pipeline import Partial, Run, carry_out, labels
from tasks.runtime.refreshed import Refreshed
from tasks.stages import ablation as table
from tasks.stages.evaluate import evaluate

# Of a row that was made.
LOST = (
    "it was made, but its evaluation is not in the store any more: what it is made from was made again, changed or "
    "removed meanwhile; run this row again"
)


def row(run: Run, trained: Until) -> None:
    """What happens in one row, in order; `trained` is how far."""
    made = model_made(run, trained)
    run(evaluate, model=made["model"], weights=made["estimator"])


def tabulate(run: Run, rows: Mapping[str, Ref]) -> None:
    """The last stage: the evaluations of all rows become a table."""
    run(table.ablation, "ablation", **rows)


@flow(
    name="ablation-row",
    flow_run_name="{config.name}",
    task_runner=ThreadPoolTaskRunner(max_workers=8),  # type: ignore[arg-type]
)
def ablation_row(
    config: Config, trained: Until, refresh: list[str] | None = None, of: str = ""
) -> State[dict[str, str]]:
    """One row: data, training as far as `trained` says, evaluation.

    Args:
        config: of the row
        trained: how far
        refresh: stages to make again, but for what another row of the same ablation has made again
        of: the id of the ablation's run
    """
    again = Partial(refresh=tuple(refresh or ()), refreshed=Refreshed(of) if of else None)
    return run_flow(partial(row, trained=trained), config, again)


@flow(name="ablation")
def ablation(
    config: ConfigText = "ablation",
    set: Settings = "",
    rows: list[str] = [],  # noqa: B006 (never changed; a form shows an empty list)
    refresh: list[Label] = [],  # noqa: B006
) -> State[str]:
    """Trains and evaluates the rows of `ablation.variants` and writes one table.

    A row that fails does not stop the others; the table has the rows that there are, and the run fails. It also fails where
    a row was made and is not in the store at the end.

    Args:
        config: the name of a configuration (ablation, ...), or YAML; its `ablation` says which rows there are
        set: settings on top of it, one a line: grpo.max_steps=100
        rows: run only these; the others are in the table if they are in the store
        refresh: stages of these rows to make again although they are in the store; what rows share, once
    """

    def work() -> State[str]:
        configured = form.configuration(config, set)
        name = " ".join([configured.name, *run_names.settings(form.lines(set)), *rows])
        return _ablation(configured, rows, refresh, run_names.call(name))

    return final_state(work)


def _ablation(config: Config, rows: Sequence[str], refresh: Sequence[str], name: str) -> State[str]:
    context = FlowRunContext.get()
    assert context and context.flow_run
    store, identifier = Store.of(config), str(context.flow_run.id)
    with alive(store):
        wanted = made_with(config, chosen(config, rows))  # a wrong row is refused before any is made
        again = refreshed(wanted, refresh, store)  # and so is a wrong stage
        failed = {
            name: state
            for name, (variant, made) in wanted.items()
            if not (
                state := ablation_row(made, variant.trained, again[name], identifier, return_state=True)
            ).is_completed()
        }
        found = {
            name: ref
            for name, (variant, made) in made_with(config, config.ablation.variants).items()
            if (ref := evaluated(variant, made, store))
        }
        failed |= {name: Failed(message=LOST) for name in wanted if name not in failed and name not in found}
        if not found:
            return end_states.together(failed, "no row could be made: ")
        made = carry_out(partial(tabulate, rows=found), config, Partial(), store, identifier, name)
    folder = store.open(made["ablation"]).path
    text = (folder / "table.md").read_text(encoding="utf-8")
    page = links.shown(store.root, folder / links.PAGES["ablation"], "Open the table")
    ui_artifacts.markdown(f"{page}\n\n{text}", "ablation", "What each part brings")
    if failed:
        return end_states.together(failed)
    others = ", ".join(name for name in made_with(config, config.ablation.variants) if name not in found)
    without = f"; not made, and not in the table: {others}" if others else ""
    return Completed(message=f"{len(found)} rows{without}", data=str(folder))


def refreshed(
    wanted: Mapping[str, tuple[Variant, Config]], refresh: Sequence[str], store: Store
) -> dict[str, list[str]]:
    """By row, which of the stages to make again it has: a row that is not trained has no `grpo`.

    A row that cannot be planned is left to say so itself, which does not stop the others.

    Raises:
        UserError: no row has one of them.
    """
    if not refresh:
        return {name: [] for name in wanted}
    stages: dict[str, list[str]] = {}
    for name, (variant, made) in wanted.items():
        try:
            stages[name] = labels(partial(row, trained=variant.trained), made, store)
        except UserError:
            stages[name] = [*refresh]
    known = list(dict.fromkeys(label for of in stages.values() for label in of))
    if unknown := [label for label in refresh if label not in known]:
        raise UserError(f"refresh: {', '.join(unknown)}: no stage of these rows; stages: {', '.join(known)}")
    return {name: [label for label in refresh if label in of] for name, of in stages.items()}


def evaluated(variant: Variant, made: Config, store: Store) -> Ref | None:
    """The evaluation of a row with its configuration, if it is in the store."""
    return table.evaluation(partial(row, trained=variant.trained), made, store)


def made_with(config: Config, variants: Sequence[Variant]) -> dict[str, tuple[Variant, Config]]:
    """The rows' configurations by <row>.<seed>."""
    return {
        f"{variant.name}.{seed}": (variant, configured(config, variant, seed))
        for variant in variants
        for seed in seeds(config, variant)
    }


def chosen(config: Config, rows: Sequence[str]) -> list[Variant]:
    """The rows to run.

    Raises:
        UserError: there is no such row.
    """
    known = [variant.name for variant in config.ablation.variants]
    if unknown := sorted(set(rows) - set(known)):
        raise UserError(f"rows: {', '.join(unknown)}: no such row; rows: {', '.join(known)}")
    return [variant for variant in config.ablation.variants if not rows or variant.name in rows]
