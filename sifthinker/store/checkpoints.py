"""Checkpoints of a store by the names that people give them."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sifthinker.core.errors import UserError
from sifthinker.store import aliases, runs
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Damaged, Ref

LATEST = "latest"
# The labels of a run's models, the last one first.
MODELS = ("merge-grpo", "merge-sft", "policy-weights")


def find(store: Store, name: str) -> Ref | Path:
    """The checkpoint that an alias, 'latest', a run's name or id, <stage>/<key>, or a folder names.

    'latest' is the model of the latest whole reproduction: one that came as far as its report.

    Raises:
        UserError: there is none, it is gone from the store, or the name fits several runs whose models differ.
    """
    if alias := aliases.read(store, name):
        return _whole(store, name, Ref(**alias["ref"]))
    if name == LATEST:
        found = next((run for run in runs.runs(store) if "report" in run["stages"] and _model(run)), None)
    else:
        found = runs.only(store, name, _model, f"checkpoint {name}")
    if found and (model := _model(found)):
        return _whole(store, name, model)
    if re.fullmatch(r"(merge|policy_weights)/[0-9a-f]+", name):
        stage, key = name.split("/")
        try:
            artifact = store.find(stage, key)
        except Damaged as damage:
            raise UserError(f"checkpoint {name}: {damage}; make it again, or name another") from damage
        if artifact:
            return artifact.ref
    if (Path(name) / "config.json").is_file():
        return Path(name)
    if name == LATEST:
        raise UserError(
            f"checkpoint 'latest': no run of {store.root} came as far as its report; name one that `sif status` lists"
        )
    raise UserError(
        f"checkpoint {name!r} is no alias, run or model of {store.root}, and no folder of a model; "
        "`sif status` lists the runs, `sif promote RUN --as ALIAS --why ...` pins an alias"
    )


def certain(store: Store, name: str) -> Ref | Path:
    """The same, for what is kept by it: a name that is an alias and a run's as well must mean one model.

    Raises:
        UserError: see `find`; or alias and run are different models.
    """
    found = find(store, name)
    called = [run for run in runs.named(store, name) if (model := _model(run)) and model != found]
    if aliases.read(store, name) and called:
        each = "\n".join(["", *runs.lines(called)])
        raise UserError(
            f"checkpoint {name}: it is an alias, of {_shown(found)}, and the name of runs with other models; give the id of a "
            f"run, or {_shown(found)} for what the alias means:{each}"
        )
    return found


def _shown(found: Ref | Path) -> str:
    return str(found) if isinstance(found, Path) else f"{found.stage}/{found.key}"


def slug(name: str) -> str:
    """A name in the form that labels of stages have: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _model(run: Mapping[str, Any]) -> Ref | None:
    """The last model of a run."""
    label = next((label for label in MODELS if label in run["stages"]), None)
    return Ref(**run["stages"][label]) if label else None


def _whole(store: Store, name: str, ref: Ref) -> Ref:
    try:
        return store.open(ref).ref
    except Damaged as damage:
        raise UserError(f"checkpoint {name}: {damage}; make it again, or name another") from damage
