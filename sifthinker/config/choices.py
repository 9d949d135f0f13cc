"""What a configuration may name: the tables of sources, benchmarks, rewards and model families.

The tables live in rooms above this one, so they are found by name when a value is checked, and never imported here.
`KINDS` says where each table is. A new entry in a table is a new choice, without a change to this module.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

# Kind of name: the module of its table, and the table, whose iteration gives the names.
KINDS: dict[str, str] = {
    "source": "sifthinker.data.sources:SOURCES",
    "benchmark": "sifthinker.evaluation.benchmarks:BENCHMARKS",
    "preset": "sifthinker.config.presets:PRESETS",
    "family": "sifthinker.models.families:FAMILIES",
    "reward": "sifthinker.rewards:REWARDS",
    "sampler": "sifthinker.training.samplers:SAMPLERS",
}


def table(kind: str) -> Mapping[str, Any]:
    """The table of a kind: its entries by name."""
    module, _, name = KINDS[kind].partition(":")
    found: Mapping[str, Any] = getattr(importlib.import_module(module), name)
    return found


def known(kind: str) -> list[str]:
    """The names of a kind, in the order of its table."""
    return list(table(kind))


def suggestion(name: str, names: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the closest of `names`, or nothing where none is close."""
    found = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {found[0]!r}?" if found else ""


@dataclass(frozen=True)
class Named:
    """Annotates a `str` that must be a name of `kind`: `format: Annotated[str, Named("source")]`.

    The table is read when a value is checked or the JSON schema is made, which lists its names as an enum. `also` are
    names beside those of the table.
    """

    kind: str
    also: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The schema of a string, and then `check`."""
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The JSON schema of a string, with the names as its enum."""
        return {**handler(schema), "enum": [*self.also, *known(self.kind)]}

    def check(self, name: str) -> str:
        """The name, if the table has it.

        Raises:
            PydanticCustomError: it has not; the message lists those that it has.
        """
        names = [*self.also, *known(self.kind)]
        if name not in names:
            raise PydanticCustomError(
                "unknown_name",
                "there is no {kind} named '{name}'{suggestion} Known: {names}",
                {
                    "kind": self.kind,
                    "name": name,
                    "suggestion": suggestion(name, names) or ".",
                    "names": ", ".join(names),
                },
            )
        return name
