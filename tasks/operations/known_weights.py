"""Weights that a plan can look at: in the store, in a folder, or by a name whose sizes are published; nothing is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from sifthinker.models import miniature
from sifthinker.store.artifacts import Store
from sifthinker.training import memory
from sifthinker.training.memory import Shape
from tasks.runtime.planned import Planned


def find(
    store: Store, plan: Sequence[Planned], kind: Literal["policy", "depth"], weights: str
) -> Path | None:
    """The folder of a model's weights, where it is on this machine already.

    Args:
        store: of the artifacts.
        plan: of the run, whose stages may be in the store.
        kind: of the model.
        weights: as the configuration names them.
    """
    for planned in plan:
        if planned.label == f"{kind}-weights" and planned.verdict == "cached" and planned.key:
            found = store.find(f"{kind}_weights", planned.key)
            return found.path if found else None
    if kept := miniature.find(weights, kind):
        return kept
    folder = Path(weights).expanduser()
    return folder if folder.is_dir() else None


def shape(folder: Path | None, weights: str) -> Shape | None:
    """The sizes of the policy; None where they are not known before it is here.

    Raises:
        UserError: its folder cannot be read.
    """
    if folder is None or find_spec("transformers") is None:
        return memory.PUBLISHED.get(weights)
    return memory.read_shape(folder)
