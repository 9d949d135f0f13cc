"""Runs, checkpoints or nights side by side: what `sif compare` prints, as a run of its own in the UI."""

from __future__ import annotations

from pathlib import Path

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import run_names
from sifthinker.store.artifacts import Store
from tasks.operations.compare import compared, show
from tasks.operations.kept_store import kept
from tasks.runtime.flow_run import final_state


@flow(name="compare")
def compare(names: list[str], store: Path = Path("artifacts"), remote: str = "") -> State[str]:
    """Compares evaluations with the first of them: scores, paired tests, what was made otherwise, changed replies.

    Args:
        names: two or more: evaluated runs (name or id), checkpoints (alias, 'latest', STAGE/KEY of an artifact), nights (id or date)
        store: folder of the artifacts
        remote: address of the store's copy on an object store (s3://bucket/prefix); empty: SIF_REMOTE of the worker's environment, or the one that the folder remembers
    """
    return final_state(lambda: _compare(names, kept(store, remote)))


def _compare(names: list[str], opened: Store) -> State[str]:
    run_names.call(f"compare {', '.join(names)}")
    made = compared(opened, names)
    show(opened, made.text, made.page, names)
    return Completed(message=f"{len(names)} evaluations", data=str(made.page))
