"""The records of a store's runs: which artifact every stage made or took; `<store>/runs/<id>.json`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref, RefFields, first_fault
from sifthinker.system.processes import gone_here

logger = logging.getLogger(__name__)
SHORTEST = 6  # characters of an id that name a run
RUNNING = "running"  # the state in a run's record until it ends
CRASHED = "crashed"  # the same where the next run found that the process of this one was gone
KILLED = "killed"  # what readers call a run that is RUNNING by its record, and whose process is gone
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


def state(store: Store, record: Mapping[str, Any]) -> str:
    """The state of a run: that of its record, or KILLED where its process is known to be gone."""
    return KILLED if gone(store, record) else str(record.get("state", ""))


def gone(store: Store, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The process of a run that should be under way, where it was one of this machine and is gone; else None.

    A run that is killed cannot write its end, and only the next run with this store does (tasks/runtime/liveness.py). A run
    of another machine that shares the store may live, whatever is seen from here.
    """
    if record.get("state") != RUNNING:
        return None
    try:
        said = json.loads((store.root / "alive" / f"{record['id']}.json").read_text(encoding="utf-8"))
        process = dict(said["process"])
        if not gone_here(process):
            return None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):  # it ended by itself, or nobody knows
        return None
    # It may have ended between the look at its record and the look at its process.
    return process if _read(file(store, record["id"])).get("state") == RUNNING else None


def named(store: Store, name: str) -> list[dict[str, Any]]:
    """The runs of that id, else those of that name or whose id begins so; the latest first."""
    known = runs(store)
    by_id = [run for run in known if run["id"] == name]
    begins = len(name) >= SHORTEST
    return by_id or [run for run in known if run["name"] == name or (begins and run["id"].startswith(name))]


def only(store: Store, name: str, of: Callable[[dict[str, Any]], Any], who: str) -> dict[str, Any] | None:
    """The run that a name or an id means: the latest of those for which `of` gives something; None without one.

    Args:
        store: that has the runs.
        name: a run's name, its id, or the beginning of its id.
        of: what is wanted of a run; None where it has no such thing.
        who: begins the message.

    Raises:
        UserError: the name fits several runs, and they give different things.
    """
    having = [(run, wanted) for run in named(store, name) if (wanted := of(run)) is not None]
    if any(wanted != having[0][1] for _, wanted in having):
        raise UserError(f"{who}: {ambiguous(name, [run for run, _ in having])}")
    return having[0][0] if having else None


def ambiguous(name: str, found: Sequence[Mapping[str, Any]]) -> str:
    """That a name means several runs, and which."""
    return "\n".join([f"{name!r} means {len(found)} runs, which differ; give the id of one:", *lines(found)])


def lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Runs to choose from, a line each."""
    return [
        f"  {run['id']}  {time.strftime('%Y-%m-%d %H:%M', time.gmtime(run['started']))} UTC  {run['name']}"
        for run in found
    ]


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
