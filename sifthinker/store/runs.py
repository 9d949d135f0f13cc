"""The records of a store's runs: which artifact every stage made or took; `<store>/runs/<id>.json`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref

logger = logging.getLogger(__name__)
RUNNING = "running"  # the state in a run's record until it ends
TRAINED = ("merge-grpo", "merge-sft")  # the labels of a run's trained models, the last one first


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


def named(records: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """The run of an id, of the beginning of an id, or of a name that no other run has.

    Raises:
        UserError: there is none, or there are several.
    """
    found = (
        [record for record in records if record["id"] == name]
        or [record for record in records if record["name"] == name]
        or [record for record in records if record["id"].startswith(name)]
    )
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"{record['name']} ({record['id']})" for record in (found or records)[:5])
    if found:
        raise UserError(f"{len(found)} runs are called {name}; give an id: {listed}")
    raise UserError(f"there is no run {name}; the latest: {listed or 'none'}")


def final(made: Mapping[str, Ref]) -> Ref | None:
    """The final model of a run; of one that trained none, its last artifact.

    Args:
        made: what the run made or took, by label, in its order.
    """
    label = next((label for label in TRAINED if label in made), None) or next(reversed(list(made)), None)
    return made[label] if label else None


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        logger.warning("%s: %s", path, error)
        return {}
    return found
