"""The records of a store's runs: which artifact every stage made or took; `<store>/runs/<id>.json`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref, RefFields, first_fault

logger = logging.getLogger(__name__)
RUNNING = "running"  # the state in a run's record until it ends
TRAINED = ("merge-grpo", "merge-sft")  # the labels of a run's trained models, the last one first


class Record(TypedDict):
    """What every reader of a run's record relies on."""

    id: str
    started: float  # seconds since 1970
    stages: dict[str, RefFields]  # by label
    name: NotRequired[str]
    state: NotRequired[str]
    config: NotRequired[dict[str, Any]]


_FORM = TypeAdapter(Record)


def file(store: Store, identifier: str) -> Path:
    """Where the record of a run is, or would be."""
    return store.root / "runs" / f"{identifier}.json"


def records(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The records with their files, the latest first. One that cannot be read is empty, and comes last.

    Args:
        root: the store's folder.
    """
    found = [(path, _read(path)) for path in (root / "runs").glob("*.json")]
    return sorted(found, key=lambda entry: entry[1].get("started", 0.0), reverse=True)


def runs(store: Store) -> list[dict[str, Any]]:
    """The records that can be read, the latest first.

    Each has `id`, `name`, `started` (seconds since 1970), `config`, `state`, and `stages`: references by label.
    """
    return [record for _, record in records(store.root) if record]


def final(made: Mapping[str, Ref]) -> Ref | None:
    """The final model of a run; of one that trained none, its last artifact.

    Args:
        made: what the run made or took, by label, in its order.
    """
    label = next((label for label in TRAINED if label in made), None) or next(reversed(list(made)), None)
    return made[label] if label else None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        _FORM.validate_python(found)
    except ValidationError as error:
        logger.warning("%s cannot be read: %s", path, first_fault(error))
        return {}
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s cannot be read: %s", path, error)
        return {}
    return dict(found)
