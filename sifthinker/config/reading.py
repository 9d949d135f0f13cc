"""The whole configuration of a reproduction: its sections (sections.py) put together, read, changed and checked.

`flows/configs/*.yaml` hold only what differs from the defaults.
This module holds no logic that results depend on, and is therefore left out of the code digests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from sifthinker.config.sections import (
    Ablation,
    Annotate,
    Depth,
    Evaluate,
    Expand,
    Grpo,
    Ingest,
    Merge,
    Model,
    Nightly,
    Pools,
    Publish,
    Report,
    Retry,
    Scenes,
    Section,
    Sft,
    Source,
    operational,
)
from sifthinker.core.errors import UserError


class Config(Section):
    """One reproduction."""

    name: str = Field(
        "reproduction", pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]*$", description="of the run, and for comparisons"
    )
    store: Path = operational(Path("artifacts"), description="folder of all artifacts, cache and logs")
    remote: str | None = operational(
        None,
        pattern=r"^s3://",
        description="s3://bucket/prefix: the store that machines share; `store` is then this machine's cache of it",
    )
    placement: Literal["process", "pools"] = operational(
        "process",
        description="process: all stages in the flow's process; pools: those that need a GPU in the work pools "
        "that `pools` names, the others in the flow's process",
    )
    pools: Pools = operational(Pools())
    dask: str | None = operational(
        None,
        pattern=r"^(tcp|tls)://",
        description="tcp://scheduler:8786 of a Dask cluster that makes the shards of expand and depth",
    )
    max_rejected: float = operational(
        0.5,
        ge=0,
        le=1,
        description="share of its rows that a stage may reject before it fails; rows that ingest.exclude, cap or "
        "total and sft.too_long leave out do not count. 1 = any share, but never all rows",
    )
    scenes: Scenes | None = Field(None, description="none: no rendered scenes")
    sources: tuple[Source, ...] = Field((), description="files of annotations, with their images")
    ingest: Ingest = Ingest()
    expand: Expand = Expand()
    depth: Depth = Depth()
    annotate: Annotate = Annotate()
    retry: Retry = Retry()
    publish: Publish = Publish()
    model: Model = Model()
    sft: Sft = Sft()
    merge: Merge = Merge()
    grpo: Grpo = Field(default_factory=Grpo)  # not before its rewards are in the table
    evaluate: Evaluate = Evaluate()
    report: Report = Report()
    nightly: Nightly = Nightly()
    ablation: Ablation = Field(default_factory=Ablation)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"sources: names must be unique, found {names}")
        if not self.sources and self.scenes is None:
            raise ValueError("no input: give `sources` (VisCoT, TallyQA files) or `scenes` (rendered)")
        world = self.grpo.ranks * self.grpo.batch * self.grpo.accumulation
        if world % self.grpo.generations:
            raise ValueError(
                f"grpo: ranks x batch x accumulation = {world} completions a step is no multiple of "
                f"generations = {self.grpo.generations}"
            )
        return self


def load(path: Path, overrides: dict[str, Any] | None = None) -> Config:
    """The configuration of a YAML file, with dotted `overrides` ({"grpo.learning_rate": 2e-5}) on top.

    Relative paths in the file are relative to the working directory.

    Raises:
        UserError: the file is missing, is not YAML, or a field is unknown or has a wrong value.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UserError(f"{path}: cannot read the configuration: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: a configuration is a mapping, found {type(values).__name__}")
    _assign(values, overrides or {})
    return parse(values, str(path))


def changed(config: Config, fields: dict[str, Any], origin: str) -> Config:
    """The configuration with other values for dotted `fields`; `origin` names them in errors.

    Raises:
        UserError: see `load`.
    """
    values = config.model_dump()
    _assign(values, fields)
    return parse(values, origin)


def _assign(values: dict[str, Any], fields: dict[str, Any]) -> None:
    for dotted, value in fields.items():
        *parents, leaf = dotted.split(".")
        target = values
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise UserError(f"--set {dotted}: {parent} is not a section")
        target[leaf] = value


def parse(values: dict[str, Any], origin: str) -> Config:
    """`Config` of plain values; `origin` names them in errors.

    Raises:
        UserError: a field is unknown or has a wrong value; every one is listed.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or '(top)'}: {e['msg']}" for e in error.errors()]
        raise UserError("\n".join([f"{origin}: the configuration is not valid:", *lines])) from error


def identity(value: Any) -> Any:
    """A section as plain values without its operational fields: what a stage's identity is made from."""
    if isinstance(value, BaseModel):
        return {
            name: identity(getattr(value, name))
            for name, field in type(value).model_fields.items()
            if not (isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("operational"))
        } | identity(value.model_extra or {})
    if isinstance(value, (tuple, list)):
        return [identity(item) for item in value]
    if isinstance(value, dict):
        return {key: identity(item) for key, item in value.items()}
    return value
