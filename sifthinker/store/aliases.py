"""Names that a person gave to checkpoints of a store: which, who, when and why; `<store>/aliases/<name>.json`."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Damaged, Ref


def pin(store: Store, name: str, ref: Ref, who: str, why: str) -> dict[str, Any]:
    """Gives a name to an artifact. The record keeps the artifacts that had the name before.

    Raises:
        UserError: no such name, no reason, or the artifact is not in the store, whole.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or name == "latest":
        raise UserError(f"alias {name!r}: use lower-case letters, digits, - and _; 'latest' is taken")
    if not why.strip():
        raise UserError(f"alias {name}: say why; whoever reads the nights will ask")
    try:
        store.open(ref)
    except Damaged as damage:
        raise UserError(f"alias {name}: {damage}; `sif status` lists the runs") from damage
    before = read(store, name)
    earlier = [{k: v for k, v in before.items() if k != "earlier"}, *before["earlier"]] if before else []
    record = {
        "ref": ref.model_dump(),
        "who": who,
        "when": time.time(),
        "why": why.strip(),
        "earlier": earlier,
    }
    store.record(store.root / "aliases" / f"{name}.json", record)
    return record


def read(store: Store, name: str) -> dict[str, Any] | None:
    """The record of a name: `ref`, `who`, `when` (seconds since 1970), `why`, `earlier`; None where there is none.

    Raises:
        UserError: its file is damaged.
    """
    path = store.root / "aliases" / f"{name}.json"
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        Ref.model_validate(found["ref"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path}: is no record of an alias ({type(error).__name__}); remove it, and give the name again with "
            f"`sif promote RUN --as {name} --why ...`"
        ) from error
    return found
