"""Reads a configuration from YAML, changes its fields, and says what of it is part of a stage's identity.

`flows/configs/*.yaml` hold only what differs from the defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from sifthinker.config import layers, mistakes, yaml_files
from sifthinker.config.reproduction import Config
from sifthinker.core.errors import UserError

Kind = TypeVar("Kind", bound=BaseModel)


def load(files: Path | Sequence[Path], overrides: dict[str, Any] | None = None) -> Config:
    """The configuration of a YAML file, with dotted `overrides` ({"grpo.learning_rate": 2e-5}) on top.

    A file may extend another, and of several files the later wins: `sifthinker.config.layers`. Relative paths in a file are
    relative to the working directory.

    Raises:
        UserError: a file is missing or not YAML, extends what is not there, or a field is unknown or has a wrong value.
    """
    return _laid(layers.read([files] if isinstance(files, Path) else files), overrides or {})


def load_text(text: str, overrides: dict[str, Any], origin: str) -> Config:
    """The configuration of a form: a name, or YAML that may extend a name; `overrides` and errors as of `load`.

    Raises:
        UserError: see `load`; and the text names a path.
    """
    return _laid(layers.read_text(text, origin), overrides)


def assignments(lines: Sequence[str], origin: str) -> dict[str, Any]:
    """The fields of lines `FIELD=VALUE`, by their dotted names; `origin` names the lines in errors.

    Raises:
        UserError: a line has no `=`, or its value is not YAML.
    """
    fields: dict[str, Any] = {}
    for line in lines:
        field, equals, value = line.partition("=")
        if not equals or not field.strip():
            raise UserError(f"{origin} {line}: write FIELD=VALUE, e.g. grpo.learning_rate=2e-5")
        fields[field.strip()] = parse_value(value, f"{origin} {field.strip()}")
    return fields


def as_yaml(config: Config, whole: bool = True) -> str:
    """The configuration as YAML that reads as the same configuration; not `whole`: without what nobody set."""
    return yaml_files.write(config.model_dump(mode="json", exclude_unset=not whole))


def is_operational(dotted: str) -> bool:
    """Whether the field of that dotted name changes how a stage runs, and never what comes out."""
    kind: type[BaseModel] | None = Config
    for part in dotted.split("."):
        field = None if kind is None else kind.model_fields.get(part)
        if field is None:
            return False
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("operational"):
            return True
        kind = mistakes.section(field.annotation)
    return False


def load_section(kind: type[Kind], path: Path) -> Kind:
    """A section, or another pydantic model, of a YAML file; see `load`.

    Raises:
        UserError: see `load`; every wrong field is listed with its line.
    """
    document = layers.mapping(path)
    where = lambda place: (str(path), document.line(place))  # noqa: E731
    return _checked(kind, document.values, str(path), where)


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


def _laid(read: layers.Layers, overrides: dict[str, Any]) -> Config:
    _assign(read.values, overrides)
    return _checked(Config, read.values, read.documents[-1][0], read.where, tuple(overrides))


def _assign(values: dict[str, Any], fields: dict[str, Any]) -> None:
    """Sets dotted fields. An endpoint that is given another preset keeps no field from before, as in `layers.merged`.

    One that has the preset already is left as it is: a form gets a configuration with its settings, and the settings again.
    """
    for dotted, value in fields.items():
        *parents, leaf = dotted.split(".")
        if leaf == "preset" and isinstance(value, str):
            endpoint = _section(values, parents, dotted)
            if endpoint.get(leaf) != value:
                endpoint.clear()
    for dotted, value in fields.items():
        *parents, leaf = dotted.split(".")
        _section(values, parents, dotted)[leaf] = value


def _section(values: dict[str, Any], parents: Sequence[str], dotted: str) -> dict[str, Any]:
    """The section of a dotted field. It and those above it become copies: an alias of YAML is one mapping in several places."""
    for parent in parents:
        below = {} if values.get(parent) is None else values[parent]
        if not isinstance(below, dict):
            raise UserError(f"--set {dotted}: {parent} is not a section")
        values[parent] = dict(below)
        values = values[parent]
    return values


def _checked(
    kind: type[Kind],
    values: dict[str, Any],
    origin: str,
    where: Callable[[mistakes.Place], tuple[str, int | None]] | None = None,
    overrides: tuple[str, ...] = (),
) -> Kind:
    """The section of plain values; `where` gives the file and the line of a field."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found: list[tuple[str, str]] = []  # the file of a mistake, and the mistake
        for place, details in mistakes.places(error):
            file, field = origin, mistakes.name(place, values)
            if any(f"{field}.".startswith(f"{dotted}.") for dotted in overrides):
                field = f"--set {field}"
            elif where:
                file, line = where(place)
                field = field if line is None else f"line {line}: {field}"
            found.append((file, f"{field}: {mistakes.message(kind, place, details)}"))
        if len(found) == 1:
            raise UserError(": ".join(found[0])) from error
        if {file for file, _ in found} != {origin}:
            found = [(file, f"{file}: {said}") for file, said in found]
        lines = [f"{origin}: the configuration is not valid:", *(said for _, said in found)]
        raise UserError("\n  ".join(lines)) from error
