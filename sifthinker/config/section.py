"""What all sections of the configuration are made of: the base class, operational fields, and the checks of values.

A configuration comes from a YAML file, from `--set`, or from a form of the Prefect UI. The checks here hold for all
three. They refuse what pydantic would convert without a word (`true` for 1) and what fails much later (NUL in a path,
a number beyond 64 bits).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationInfo, field_validator
from pydantic_core import CoreSchema, to_jsonable_python

_INTEGER = 2**63  # first integer that does not fit into 64 bits


class Section(BaseModel):
    """A part of the configuration. It is immutable, and refuses unknown fields."""

    # Defaults are validated: 20 and 20.0 are one value, but two in a key.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)
    alone: ClassVar[bool] = (
        False  # given in part, it takes nothing from the default of the field that it is given for
    )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The JSON schema, with the default of a field that makes it when it is asked for: a form shows all of them."""
        made = handler(schema)
        properties = handler.resolve_ref_schema(made)["properties"]
        for name, field in cls.model_fields.items():
            if field.default_factory is not None:
                properties[name]["default"] = to_jsonable_python(field.get_default(call_default_factory=True))
        return made

    @field_validator("*", mode="before")
    @classmethod
    def _over_its_default(cls, value: Any, info: ValidationInfo) -> Any:
        """A section of which some fields are given has the others from the field's own default, not from its class."""
        assert info.field_name is not None
        default = cls.model_fields[info.field_name].default
        if isinstance(value, dict) and isinstance(default, Section) and not default.alone:
            return {**default.model_dump(exclude_unset=True), **value}
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _check_plain(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        types = set(_leaves(cls.model_fields[info.field_name].annotation))
        if any(isinstance(kind, type) and issubclass(kind, Section) for kind in types):
            return value  # sections check their own
        for item in _scalars(value):
            if isinstance(item, bool) and types & {int, float} and bool not in types:
                raise ValueError(f"must be a number, found {str(item).lower()}")
            if isinstance(item, float) and types & {int, float} and not math.isfinite(item):
                raise ValueError(f"must be a finite number, found {item}")
            if isinstance(item, (int, float)) and int in types and abs(item) >= _INTEGER:
                raise ValueError("is too large: an integer has at most 64 bits")
            if isinstance(item, str):
                _check_text(item)
        return value


def operational(default: Any = ..., **kwargs: Any) -> Any:
    """A field that changes how a stage runs, never what comes out (paths, concurrency, time-outs).

    It is left out of the stage's identity (`identity`), so changing it reruns nothing.
    """
    return Field(default, json_schema_extra={"operational": True}, **kwargs)


def added(default: Any, **kwargs: Any) -> Any:
    """A field that came later, with whose default a stage computes what it computed before the field was there.

    The default is left out of the stage's identity (`identity`), so artifacts from before the field keep their keys.
    """
    return Field(default, json_schema_extra={"added": True}, **kwargs)


def address(text: str) -> str:
    """The address of an HTTP server, as every spelling of it: scheme and host in lower case, no usual port, no slash at its end.

    It names the account of paid calls, so that another spelling would pay them again.

    Raises:
        ValueError: it is no http or https URL with a host and a valid port, or it holds a password.
    """
    example = "write http://host:port/path or https://host/path"
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise ValueError(f"is no address: {error}; {example}") from error
    if url.scheme not in ("http", "https") or not host:
        raise ValueError(f"is no address of an HTTP server; {example}")
    if url.username is not None:
        raise ValueError("must not hold a user or password; put the key into the environment (api_key_env)")
    netloc = f"[{host}]" if ":" in host else host  # both in lower case, as the scheme
    if port not in (None, 443 if url.scheme == "https" else 80):
        netloc += f":{port}"
    return url._replace(netloc=netloc, path=url.path.rstrip("/")).geturl()


def _leaves(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is composed of: int and NoneType of `tuple[int, ...] | None`."""
    parts = get_args(annotation)
    if not parts:
        yield annotation
    for part in parts:
        yield from _leaves(part)


def _scalars(value: Any) -> Iterator[Any]:
    """The value itself, or the items of lists and mappings."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _scalars(key)
            yield from _scalars(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _scalars(item)
    else:
        yield value


def _check_text(text: str) -> None:
    if "\0" in text:
        raise ValueError("holds a NUL character; remove it")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds half of a surrogate pair, which is no character; remove it")
