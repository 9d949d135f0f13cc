"""A look at the first chains: the rows are read, the depth maps that they need are made, and they are annotated."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.commands.requests import lines
from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from sifthinker.system.disk_errors import explained
from tasks.operations.preview import previewed
from tasks.runtime import placement
from tasks.runtime.flow_run import final_state
from tasks.runtime.liveness import alive
from tasks.runtime.pipeline import Partial, Run, carry_out
from tasks.stages.expand import expand
from tasks.stages.ingest import ingest
from tasks.stages.scenes import scenes
from tasks.stages.weights import depth_weights

PAGE = "preview.html"


@flow(name="preview", flow_run_name="{config.name} preview", task_runner=ThreadPoolTaskRunner(max_workers=8))  # type: ignore[arg-type]
def preview(config: Config, rows: int = 10) -> State[list[str]]:
    """Annotates the first rows on the ledger of the real run, and shows their chains on a page.

    Args:
        config: as for the reproduction
        rows: how many
    """
    return final_state(lambda: _preview(config, rows))


def _preview(config: Config, rows: int) -> State[list[str]]:
    context = FlowRunContext.get()
    assert context and context.flow_run
    store = Store.of(config)
    settled = config

    def before(run: Run) -> None:
        """What annotate needs, without the depth of all pictures."""
        nonlocal settled
        if run.config.scenes:
            run.provide(run(scenes))
        settled = run.config
        if not settled.annotates:
            raise UserError(
                "preview: the sources bring their chains, and nothing is bought; `sif chains` shows what they are"
            )
        run(depth_weights)
        samples = run(ingest)
        run(expand, samples=samples)

    with explained(f"store {store.root}"), alive(store):
        config = placement.settled(config)
        run_id = str(context.flow_run.id)
        made = carry_out(before, config, Partial(), store, run_id, context.flow_run.name)
        page: Path = store.root / "previews" / run_id / PAGE
        said = previewed(settled, store, made, rows, page, list(lines(settled, {"annotate"})))
    return Completed(message="previewed", data=[*said, str(page)])
