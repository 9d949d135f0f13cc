"""The depth model for what is done outside a run: questions, servers, folders of pictures."""

from pathlib import Path

from sifthinker.config import Config
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref
from sifthinker.store.runs import runs


def weights(store: Store, config: Config, work: Path) -> Path:
    """The folder of the depth model of the store's latest run, else of the configured one, fetched into `work`.

    Raises:
        UserError: it cannot be had.
    """
    refs = [Ref(**run["stages"]["depth-weights"]) for run in runs(store) if "depth-weights" in run["stages"]]
    if refs:
        return store.open(refs[0]).path
    from sifthinker.models import loading  # imports torch

    given = config.depth
    return Path(loading.fetch(given.weights, given.revision, "depth", "", config.model.seed, work)["folder"])
