"""A checkpoint as an artifact, whatever it is named by."""

from sifthinker.store.checkpoints import find, slug
from sifthinker.store.manifest import Ref
from tasks.runtime.pipeline import Run
from tasks.stages.weights import policy_weights


def checkpoint(run: Run, name: str) -> Ref:
    """The artifact of a checkpoint. A folder of the user's becomes one, by the digest of its files.

    Raises:
        UserError: there is no such checkpoint.
        StageFailed: the folder could not be taken into the store.
    """
    found = find(run.store, name)
    if isinstance(found, Ref):
        return found
    model = run.config.model.model_copy(update={"weights": str(found), "revision": None})
    config = run.config.model_copy(update={"model": model})
    made = run(policy_weights, f"weights-{slug(name)}", config)
    assert isinstance(made, Ref), "a night is carried out, not planned"
    return made
