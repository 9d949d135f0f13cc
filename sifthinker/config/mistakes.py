"""What is wrong with a configuration, in the user's words: one line a mistake, with the field and what to do."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sifthinker.config.choices import suggestion

Place = tuple[str | int, ...]  # of a field: names of fields, and positions in lists

# By pydantic's type of the error; {} are its context. "found ..." follows.
_MESSAGES = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "is too large: an integer has at most 64 bits",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text; put it into quotes",
    "string_pattern_mismatch": "must match {pattern}",
    "path_type": "must be a path",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "model_type": "must be a section, with fields of its own",
    "model_attributes_type": "must be a section, with fields of its own",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "literal_error": "must be one of {expected}",
}


def places(error: ValidationError) -> list[tuple[Place, ErrorDetails]]:
    """Each mistake with the place of its field."""
    return [(tuple(details["loc"]), details) for details in error.errors()]


def name(place: Place, values: Any) -> str:
    """The dotted name of a field; an item of a list goes by its own name where it has one that no other has.

    >>> name(("sources", 0, "format"), {"sources": [{"name": "gqa", "format": "x"}]})
    'sources.gqa.format'
    """
    parts = []
    for part in place:
        parts.append(str(part))
        if isinstance(part, int) and isinstance(values, Sequence) and part < len(values):
            names = [item.get("name") if isinstance(item, Mapping) else None for item in values]
            own = names[part]
            if isinstance(own, str) and names.count(own) == 1:
                parts[-1] = own
        values = _item(values, part)
    return ".".join(parts) or "(top)"


def message(kind: type[BaseModel], place: Place, details: ErrorDetails) -> str:
    """What is wrong with the field at `place` of a `kind`, what was found, and what to do."""
    error = details["type"]
    if error == "extra_forbidden":
        known = _fields(kind, place[:-1])
        return "there is no such field" + (
            suggestion(str(place[-1]), known) or f"; known: {', '.join(known)}"
        )
    if error == "missing":
        return "is missing; give it"
    if error == "invalid_key":
        return "is no name of a field; put it into quotes"
    context = details.get("ctx", {})
    limits = {key: f"{value:g}" if isinstance(value, float) else value for key, value in context.items()}
    if error == "value_error":
        return str(context["error"])
    if error not in _MESSAGES:
        return details["msg"]
    found = details["input"]
    expected = _MESSAGES[error].format(**limits)
    close = ""
    if error == "literal_error" and isinstance(found, str):
        close = suggestion(found, _names(context["expected"]))
    return f"{expected}, found {_shown(found)}{close}"


def _names(expected: str) -> list[str]:
    """Of pydantic's list `'a', 'b' or 'c'`."""
    return expected.split("'")[1::2]


def _item(values: Any, part: str | int) -> Any:
    try:
        return values[part]
    except (KeyError, IndexError, TypeError):
        return None


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "nothing"}[value]
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _fields(kind: type[BaseModel], place: Iterable[str | int]) -> list[str]:
    """The names of the fields of the section at `place`."""
    for part in place:
        field = kind.model_fields.get(str(part))
        found = None if field is None else section(field.annotation)
        kind = kind if found is None else found
    return list(kind.model_fields)


def section(annotation: Any) -> type[BaseModel] | None:
    """The section in an annotation: Source in `tuple[Source, ...]`, Api in `Api | None`."""
    if isinstance(annotation, type) and not get_origin(annotation):
        return annotation if issubclass(annotation, BaseModel) else None
    if get_origin(annotation) in (tuple, list, Union, types.UnionType):
        return next(filter(None, map(section, get_args(annotation))), None)
    return None
