"""Evaluations of a store, found by what was evaluated."""

from __future__ import annotations

from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Artifact, Damaged, Ref

STAGE = "evaluate"


def of_model(store: Store, model: Ref) -> Artifact | None:
    """The latest whole evaluation of all questions of a model; of a sample, where there is no other."""
    found: list[Artifact] = []
    for manifest in store.manifests(STAGE):
        made_of = manifest["inputs"].get("model")
        if made_of is None or made_of["digest"] != model.digest:
            continue
        try:
            artifact = store.find(STAGE, manifest["key"])
        except Damaged:  # it says nothing any more; another may
            continue
        if artifact:
            found.append(artifact)
    whole = [artifact for artifact in found if not _limited(artifact)]
    return next(iter([*whole, *found]), None)


def _limited(artifact: Artifact) -> bool:
    config = artifact.manifest["identity"].get("config", {})
    return bool(config.get("evaluate", {}).get("limit")) if isinstance(config, dict) else False
