"""YAML that people write: strict where PyYAML is silent, and with the lines of its values.

Duplicate keys are refused, since PyYAML would keep the last one. `2e-5` is a number, as in YAML 1.2. Dates are text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sifthinker.core.errors import UserError

DEEPEST = 50  # levels; Python's recursion ends at some 1,000
_EXPONENT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")


@dataclass(frozen=True)
class Document:
    """The plain values of a YAML text, and where they are in it."""

    values: Any
    root: yaml.Node | None

    def line(self, place: Sequence[str | int]) -> int | None:
        """The line, from 1, of the field at `place`: of the innermost part of it that the text has, None without one."""
        return self.find(place)[1]

    def find(self, place: Sequence[str | int]) -> tuple[int, int | None]:
        """How many parts of `place` the text has, from the outermost, and the line of the innermost of them."""
        node, depth, found = self.root, 0, None
        for part in place:
            key: yaml.Node | None = None
            if isinstance(node, yaml.MappingNode):
                key, node = next(
                    # Keys that are merged in (`<<`) come before a mapping's own.
                    ((k, v) for k, v in reversed(node.value) if k.value == str(part)),
                    (None, None),
                )
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                key = node = node.value[part]
            if key is None:
                break
            depth += 1
            found = key.start_mark.line + 1
        return depth, found


def read(path: Path, what: str = "configuration") -> Document:
    """The document of a YAML file; `what` names it in errors.

    Raises:
        UserError: the file cannot be read, is not UTF-8, is not YAML, or repeats a key.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: NUL in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{path}: cannot read the {what}: {reason}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}: line {line}: the {what} is not UTF-8 text; save the file with the encoding UTF-8"
        ) from error
    return parse(text, str(path))


def parse(text: str, origin: str) -> Document:
    """The document of a YAML text; `origin` names it in errors.

    Raises:
        UserError: the text is not YAML, repeats a key, is nested too deeply, or has a number that is too large.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        return Document(None if root is None else loader.construct_document(root), root)
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise UserError(
            f"{origin}: line {line}: not YAML: the character U+{ord(text[error.position]):04X} is not allowed"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        context = f" {error.context}," if error.context else ""
        raise UserError(f"{origin}:{where} not YAML:{context} {error.problem}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{origin}: not YAML: {error}") from error


def write(values: Any) -> str:
    """Plain values as YAML that `parse` reads as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which puts text into quotes that `_Loader` would read as a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, without its silent acceptances."""

    yaml_implicit_resolvers = {  # noqa: RUF012 -- PyYAML's own way
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > DEEPEST:
            mark = self.get_mark()
            raise yaml.composer.ComposerError(None, None, f"nested more than {DEEPEST} levels deep", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            text = str(node.value)
            shown = text if len(text) <= 40 else f"{text[:20]}… ({len(text)} characters)"
            raise yaml.constructor.ConstructorError(
                None, None, f"{shown} cannot be read as {kind}", node.start_mark
            ) from error

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                raise yaml.composer.ComposerError(
                    None,
                    None,
                    f"{key.value!r} is given twice, first in line {lines[key.value]}",
                    key.start_mark,
                )
            lines[key.value] = key.start_mark.line + 1
        return node


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))
