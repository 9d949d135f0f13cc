"""Where stages run: the Prefect work pools of those that need a GPU, and the Dask cluster that makes shards."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from sifthinker.config.section import Section, operational


def pool(default: str | None, gpus: str) -> Any:
    """A field that names a work pool."""
    return operational(
        default,
        pattern=r"^[a-z0-9][a-z0-9-]*$",
        description=f"work pool; none: the flow's process. Needs {gpus}",
    )


class Pools(Section):
    """With `placement: pools`: the Prefect work pool of each stage that needs a GPU."""

    depth: str | None = pool("gpu-1", "one GPU")
    sft: str | None = pool("gpu-8", "as many GPUs as sft.ranks")
    merge: str | None = pool("gpu-1", "one GPU, or memory for the model in fp32")
    grpo: str | None = pool("gpu-8", "as many GPUs as grpo.ranks")
    evaluate: str | None = pool("gpu-1", "one GPU, for the server that it starts")
    wait: float = operational(
        24.0, gt=0, description="hours that a stage waits for its pool to take it before the run fails"
    )
    server_away: float = operational(
        15.0,
        gt=0,
        description="minutes that the Prefect server may be away, while a stage runs in its pool, before the run fails",
    )


class Dask(Section):
    """A Dask cluster whose workers make the shards of the data stages. Its address alone may be given."""

    address: str = operational(pattern=r"^(tcp|tls)://", description="of its scheduler: tcp://scheduler:8786")
    resources: dict[Literal["expand", "depth", "annotate", "retry"], dict[str, float]] = operational(
        {},
        description="what a worker must offer (`dask worker --resources`) for a shard of a stage: {depth: {GPU: 1}}",
    )
    wait: float = operational(
        0.25,
        gt=0,
        description="hours that a stage waits for a worker that can take its shards before the run fails",
    )

    @model_validator(mode="before")
    @classmethod
    def _address(cls, value: Any) -> Any:
        return {"address": value} if isinstance(value, str) else value
