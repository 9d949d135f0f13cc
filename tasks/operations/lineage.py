"""The chain of artifacts behind what a run made, as a picture that the UI shows."""

from collections.abc import Mapping

from prefect.logging import get_run_logger

from sifthinker.core import images
from sifthinker.store import lineage
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref
from tasks.runtime import ui_artifacts

TRAINED = ("merge-grpo", "merge-sft")  # the labels of a run's trained models, the last one first


def final(made: Mapping[str, Ref]) -> Ref | None:
    """The final model of a run; of one that trained none, its last artifact."""
    label = next((label for label in TRAINED if label in made), None) or next(reversed(list(made)), None)
    return made[label] if label else None


def show(store: Store, made: Mapping[str, Ref]) -> None:
    """Publishes picture and table of the lineage as the artifact `lineage` of the run."""
    ref = final(made)
    if ref is None:
        return
    log = get_run_logger()
    try:
        nodes = lineage.trace(store.manifest, ref)
        drawn = images.data_url(lineage.picture(nodes), "image/png")
        title = f"What {ref.stage}/{ref.key} was made from"
        text = f"![{title}]({drawn})\n\n{lineage.table(nodes)}"
    except Exception:  # a picture that cannot be drawn must not fail a run that made everything
        log.exception("the lineage is not shown")
    else:
        ui_artifacts.markdown(text, "lineage", title)
