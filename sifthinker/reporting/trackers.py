"""A run told to MLflow or W&B: its settings, its scores, and the names and digests of its artifacts.

They are imported here only, and only where a configuration names them. What a training logs step by step is the Trainer's
own doing (sifthinker/training/harness.py). Nothing leaves this machine unless the environment says so: MLflow goes by
MLFLOW_TRACKING_URI, and W&B by WANDB_API_KEY or WANDB_MODE. Without them both write into the store.
"""

from __future__ import annotations

import importlib.util
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sifthinker.core.errors import UserError

RUN = "sif.run"  # the tag that a run is found by again
BATCH = 100  # parameters that MLflow takes at once
LONGEST = 5000  # characters of a value; MLflow takes 6,000 of a parameter and 5,000 of a tag
UNKNOWN = re.compile(r"[^A-Za-z0-9_./ -]")  # what MLflow refuses in a name


@dataclass(frozen=True)
class Told:
    """What is told of a run."""

    id: str  # the flow run's
    name: str
    project: str  # the configuration's name: MLflow's experiment, W&B's project
    completed: bool
    settings: Mapping[str, Any]  # by dotted name
    scores: Mapping[
        str, float
    ]  # by stage, benchmark, metric and kind: "evaluate/vstar/overall/strict", of 100
    artifacts: Mapping[str, str]  # "<stage>/<key> <digest>" by label


def tell(trackers: Sequence[str], told: Told, store: Path) -> Iterator[str]:
    """Tells each tracker, and says where it did.

    A run that is told of again, after a retry, replaces what was said before.

    Args:
        trackers: names of TRACKERS.
        told: of the run.
        store: the folder of what stays on this machine.

    Raises:
        UserError: one is not installed in this environment.
    """
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"trackers: {name} is not installed where the flow runs, so it was not told of the run's scores and artifacts; "
                "`pip install -e '.[trackers]' -c constraints.txt`"
            )
        yield f"{name}: {TRACKERS[name](told, store)}"


def _mlflow(told: Told, store: Path) -> str:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    own = "" if os.environ.get("MLFLOW_TRACKING_URI") else f"sqlite:///{store / 'mlflow.sqlite'}"
    client = MlflowClient(own or None)
    found = client.get_experiment_by_name(told.project)
    experiment = found.experiment_id if found else client.create_experiment(told.project)
    earlier = client.search_runs([experiment], f"tags.`{RUN}` = '{told.id}'", max_results=1)
    run = earlier[0] if earlier else client.create_run(experiment, run_name=told.name, tags={RUN: told.id})
    known = run.data.params  # MLflow lets nobody change one
    settings = iter(
        Param(_name(name), str(value)[:LONGEST])
        for name, value in told.settings.items()
        if _name(name) not in known
    )
    while some := list(islice(settings, BATCH)):
        client.log_batch(run.info.run_id, params=some)
    now = int(time.time() * 1000)
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(_name(name), value, now, 0) for name, value in told.scores.items()],
        tags=[RunTag(f"artifact.{_name(label)}", text) for label, text in told.artifacts.items()],
    )
    client.set_terminated(run.info.run_id, "FINISHED" if told.completed else "FAILED")
    return f"run {run.info.run_id} of experiment {told.project} in {client.tracking_uri}"


def _wandb(told: Told, store: Path) -> str:
    import wandb

    mode = os.environ.get("WANDB_MODE") or ("online" if "WANDB_API_KEY" in os.environ else "offline")
    run = wandb.init(
        project=told.project,
        name=told.name,
        id=told.id,
        resume="allow",
        mode=mode,
        dir=os.environ.get("WANDB_DIR") or str(store),
        config={**told.settings, "artifacts": dict(told.artifacts)},
        settings=wandb.Settings(silent=True),
    )
    run.summary.update(dict(told.scores))
    run.finish(exit_code=0 if told.completed else 1)
    return f"run {told.id} of project {told.project}, {mode}"


def _name(text: str) -> str:
    """A name as MLflow takes it; refcoco+ stays another one than refcoco."""
    return UNKNOWN.sub("_", text.replace("+", "plus"))


TRACKERS: Mapping[str, Callable[[Told, Path], str]] = {"mlflow": _mlflow, "wandb": _wandb}
