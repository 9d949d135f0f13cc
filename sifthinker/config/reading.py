"""Reads a configuration from YAML, changes its fields, and says what of it is part of a stage's identity.

`flows/configs/*.yaml` hold only what differs from the defaults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from sifthinker.config import mistakes, yaml_files
from sifthinker.config.reproduction import Config
from sifthinker.core.errors import UserError

Kind = TypeVar("Kind", bound=BaseModel)


def load(path: Path, overrides: dict[str, Any] | None = None) -> Config:
    """The configuration of a YAML file, with dotted `overrides` ({"grpo.learning_rate": 2e-5}) on top.

    Relative paths in the file are relative to the working directory.

    Raises:
        UserError: the file is missing, is not YAML, or a field is unknown or has a wrong value.
    """
    return load_section(Config, path, overrides)


def load_section(kind: type[Kind], path: Path, overrides: dict[str, Any] | None = None) -> Kind:
    """A section, or another pydantic model, of a YAML file; see `load`.

    Raises:
        UserError: see `load`; every wrong field is listed with its line.
    """
    document = yaml_files.read(path)
    values = {} if document.values is None else document.values
    if not isinstance(values, dict):
        raise UserError(f"{path}: a configuration is a mapping, found {type(values).__name__}")
    _assign(values, overrides or {})
    return _checked(kind, values, str(path), document, tuple(overrides or {}))


def parse_value(text: str, origin: str) -> Any:
    """A value as YAML writes it, e.g. of `--set`; `origin` names it in errors.

    Raises:
        UserError: the text is not YAML.
    """
    return yaml_files.parse(text, origin).values


def changed(config: Config, fields: dict[str, Any], origin: str) -> Config:
    """The configuration with other values for dotted `fields`; `origin` names them in errors.

    Raises:
        UserError: see `load`.
    """
    values = config.model_dump()
    _assign(values, fields)
    return parse(values, origin)


def parse(values: dict[str, Any], origin: str) -> Config:
    """`Config` of plain values; `origin` names them in errors.

    Raises:
        UserError: a field is unknown or has a wrong value; every one is listed.
    """
    return _checked(Config, values, origin)


def identity(value: Any) -> Any:
    """A section as plain values: what a stage's identity is made from.

    Left out are operational fields, and fields that were `added` later while they have their default.
    """
    if isinstance(value, BaseModel):
        return {
            name: identity(getattr(value, name))
            for name, field in type(value).model_fields.items()
            if _counts(field, getattr(value, name))
        } | identity(value.model_extra or {})
    if isinstance(value, (tuple, list)):
        return [identity(item) for item in value]
    if isinstance(value, dict):
        return {key: identity(item) for key, item in value.items()}
    return value


def _counts(field: FieldInfo, value: Any) -> bool:
    marks = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    if marks.get("added"):
        return bool(value != field.get_default(call_default_factory=True))
    return not marks.get("operational")


def _assign(values: dict[str, Any], fields: dict[str, Any]) -> None:
    for dotted, value in fields.items():
        *parents, leaf = dotted.split(".")
        target = values
        for parent in parents:
            if target.get(parent) is None:
                target[parent] = {}
            target = target[parent]
            if not isinstance(target, dict):
                raise UserError(f"--set {dotted}: {parent} is not a section")
        target[leaf] = value


def _checked(
    kind: type[Kind],
    values: dict[str, Any],
    origin: str,
    document: yaml_files.Document | None = None,
    overrides: tuple[str, ...] = (),
) -> Kind:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = []
        for place, details in mistakes.places(error):
            field = mistakes.name(place, values)
            if any(f"{field}.".startswith(f"{dotted}.") for dotted in overrides):
                field = f"--set {field}"
            elif document and (line := document.line(place)):
                field = f"line {line}: {field}"
            lines.append(f"{field}: {mistakes.message(kind, place, details)}")
        if len(lines) == 1:
            raise UserError(f"{origin}: {lines[0]}") from error
        raise UserError("\n  ".join([f"{origin}: the configuration is not valid:", *lines])) from error
