"""Work pools, how many runs each takes at once, and the queues in which runs wait for it.

    PREFECT_API_URL=... python -m infra.pools      # as `make deploy` does, before the deployments

The pools are those of pools.yaml, or of the file that SIF_POOLS names. A worker takes what waits in `night` before what
waits in `default`: a night's evaluation does not stand behind the stages of other runs. A run that is under way keeps its
place until it ends. Where a night must not wait for that either, give `default` a smaller limit than its pool (README.md).

Pools and queues that are there keep the limits that people have set. A pool of Kubernetes gets its template anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from infra import registration
from sifthinker.core.errors import UserError

NIGHT = "night"  # the queue that goes first; Prefect makes the other one, `default`, with the pool
VARIABLE = "SIF_POOLS"
FILE = Path(__file__).with_name("pools.yaml")
TEMPLATE = "job-template.yaml"  # beside the file of pools


class Pool(BaseModel):
    """How a pool is made."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    limit: Annotated[int, Field(ge=1)] | None  # runs at once; None: as many as its workers take
    type: Literal["process", "kubernetes"] = "process"
    job: Mapping[str, Any] = Field(default_factory=dict)  # defaults of the template's variables


def read() -> dict[str, Pool]:
    """The pools, by name.

    Raises:
        UserError: the file cannot be read, or says what no pool has.
    """
    file = Path(os.environ.get(VARIABLE) or FILE)
    try:
        return TypeAdapter(dict[str, Pool]).validate_python(yaml.safe_load(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; {VARIABLE} names the file of the work pools") from error
    except (yaml.YAMLError, ValidationError) as error:
        raise UserError(f"{file}: {error}") from error


def template(pool: Pool, folder: Path) -> dict[str, Any]:
    """The base job template of a pool: what a worker starts for one run.

    Raises:
        UserError: a folder has no template, or `job` sets a variable that the template does not have.
    """
    if pool.type == "process":
        return dict(ProcessWorker.get_default_base_job_template())
    file = folder / TEMPLATE
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; a pool of type kubernetes needs it") from error
    properties = found["variables"]["properties"]
    for name, value in pool.job.items():
        if name not in properties:
            raise UserError(f"job.{name}: {file} has no such variable; it has: {', '.join(properties)}")
        properties[name]["default"] = value
    return dict(found)


def register(client: SyncPrefectClient) -> Iterator[str]:
    """Makes the pools and queues that are missing; what was done, a line each.

    Raises:
        UserError: see `read` and `template`.
    """
    folder = Path(os.environ.get(VARIABLE) or FILE).parent
    for name, pool in read().items():
        job = template(pool, folder)
        wanted = WorkPoolCreate(
            name=name, type=pool.type, base_job_template=job, concurrency_limit=pool.limit
        )
        try:
            client.create_work_pool(wanted)
        except ObjectAlreadyExists:
            if (there := client.read_work_pool(name).type) != pool.type:
                raise UserError(
                    f"work pool {name} is of type {there}, and {pool.type} is wanted; delete it first: "
                    f"prefect work-pool delete {name}"
                ) from None
            if pool.type != "process":
                client.update_work_pool(name, WorkPoolUpdate(base_job_template=job))
            yield f"work pool {name} is there"
        else:
            yield f"work pool {name} made"
        with suppress(ObjectAlreadyExists):
            client.create_work_queue(name=NIGHT, priority=1, work_pool_name=name)
            yield f"work queue {name}/{NIGHT} made"


if __name__ == "__main__":
    registration.run(register)
