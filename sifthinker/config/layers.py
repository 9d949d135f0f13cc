"""A configuration in layers: a file that extends another one, and several files one over the other.

A file that holds `extends: paper` is laid over the configuration of that name; `extends: base.yaml` names a file, relative
to the one that says so. A user's own `paper.yaml` that extends `paper` means the project's. Of several files
(`--config a.yaml --config b.yaml`) the later wins. Mappings are merged field by field. Everything else is replaced whole: a
list, too, and `null` takes a section of a lower layer away (`scenes: null`). So is an endpoint by one that names a `preset`:
fields of the lower one would win over the preset's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sifthinker.config import yaml_files
from sifthinker.config.choices import suggestion
from sifthinker.config.yaml_files import Document
from sifthinker.core.errors import UserError

CONFIGS = Path(__file__).resolve().parents[2] / "flows" / "configs"  # the configurations that have names
OWN = "SIF_CONFIGS"  # environment variable: a folder of this machine with more of them, which go before ours
EXTENDS = "extends"


@dataclass(frozen=True)
class Layers:
    """The values of all layers together, and which of them said what."""

    values: dict[str, Any]
    documents: tuple[tuple[str, Document], ...]  # file and what it holds; the lowest layer first

    def where(self, place: Sequence[str | int]) -> tuple[str, int | None]:
        """The file and the line, from 1, that the field at `place` is from; the last file where none has it."""
        best, file, line = -1, self.documents[-1][0], None
        for origin, document in self.documents:
            depth, found = document.find(place)
            if depth >= best and found is not None:
                best, file, line = depth, origin, found
        return file, line


def names() -> list[str]:
    """The configurations that can be given by name."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.yaml")})


def _folders() -> list[Path]:
    own = os.environ.get(OWN)
    return [Path(own), CONFIGS] if own else [CONFIGS]


def named(name: str, beside: Path = Path(), above: Path | None = None) -> Path:
    """The file of a configuration: one of `names`, or a path relative to the folder `beside`.

    Args:
        name: of a configuration, or a path.
        beside: folder that a path is relative to.
        above: the file that extends it. If that is the user's own file of this name, the project's is meant.

    Raises:
        UserError: it is neither, or the folder of the user's own configurations is none.
    """
    own = os.environ.get(OWN)
    if own and not Path(own).is_dir():
        raise UserError(f"{OWN}: {own} is no folder; correct it, or unset it")
    if name in names():
        files = [folder / f"{name}.yaml" for folder in _folders()]
        there = [file for file in files if file.exists() or file.is_symlink()]
        return next((file for file in there if not above or file.resolve() != above.resolve()), there[0])
    path = beside / Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") or path.is_file() or path.parent != beside:
        return path
    close = suggestion(name, names()) or "."
    raise UserError(
        f"there is no configuration named {name!r}{close} Known: {', '.join(names())}; or give the path of a YAML file"
    )


def read(files: Iterable[Path]) -> Layers:
    """The layers of one or more files, each over what it extends.

    Raises:
        UserError: a file cannot be read, is no mapping, or extends what is not there or itself.
    """
    documents: list[tuple[str, Document]] = []
    values: dict[str, Any] = {}
    for file in files:
        for path, document in _chain(file, ()):
            documents.append((str(path), document))
            values = merged(values, document.values)
    return Layers(values, tuple(documents))


def mapping(path: Path) -> Document:
    """The mapping of one file alone; an empty file is an empty mapping.

    Raises:
        UserError: the file cannot be read, is not YAML, or is no mapping.
    """
    found = yaml_files.read(path)
    values = {} if found.values is None else found.values
    if not isinstance(values, dict):
        raise UserError(f"{path}: a configuration is a mapping, found {type(values).__name__}")
    return Document(values, found.root)


def merged(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """`upper` over `lower`: mappings field by field, everything else replaced whole; see the module."""
    both = dict(lower)
    for field, value in upper.items():
        below = both.get(field)
        if isinstance(below, dict) and isinstance(value, dict) and "preset" not in value:
            both[field] = merged(below, value)
        else:
            both[field] = value
    return both


def read_text(text: str, origin: str) -> Layers:
    """The layers of a configuration that was typed or pasted: the name of one, or YAML, which may extend one by its name.

    Whoever types it is not on this machine: no path is followed, so that it reads no other file of it.

    Args:
        text: of a form.
        origin: names the text in errors.

    Raises:
        UserError: there is none of that name, or the text is not YAML, is no mapping, or extends what is no name.
    """
    name = text.strip()
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        return read([_by_name(name, origin)])
    typed = yaml_files.parse(text, origin)
    if not isinstance(typed.values, dict):
        raise UserError(f"{origin}: give the name of a configuration ({', '.join(names())}), or paste YAML")
    own = _without_extends(typed)
    below = Layers({}, ())
    if EXTENDS in typed.values:
        lower, where = typed.values[EXTENDS], f"{origin}: line {typed.line([EXTENDS])}: {EXTENDS}"
        if not isinstance(lower, str):
            raise UserError(
                f"{where}: must be the name of a configuration ({', '.join(names())}), found {lower!r}"
            )
        below = read([_by_name(lower, where)])
    return Layers(merged(below.values, own.values), (*below.documents, (origin, own)))


def _without_extends(document: Document) -> Document:
    return Document(
        {field: value for field, value in document.values.items() if field != EXTENDS}, document.root
    )


def _by_name(name: str, origin: str) -> Path:
    if name in names():
        return named(name)
    close = suggestion(name, names()) or "."
    raise UserError(f"{origin}: there is no configuration named {name!r}{close} Known: {', '.join(names())}")


def _chain(path: Path, above: tuple[Path, ...]) -> list[tuple[Path, Document]]:
    """A file and what it extends, the lowest first; `above` are the files that lead to it."""
    given = mapping(path)
    lower = given.values.get(EXTENDS)
    own = _without_extends(given)
    if EXTENDS not in given.values:
        return [(path, own)]
    where = f"{path}: line {given.line([EXTENDS])}: {EXTENDS}"
    if not isinstance(lower, str) or not lower:
        raise UserError(
            f"{where}: must be the name of a configuration or the path of a file, found {lower!r}; several files go "
            "into several --config"
        )
    try:
        wanted = named(lower, path.parent, path)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if not wanted.is_file():
        raise UserError(
            f"{where}: {wanted} does not exist; the path is relative to the folder of {path.name}"
        )
    seen = [file.resolve() for file in (*above, path)]
    if wanted.resolve() in seen:
        circle = " -> ".join(str(file) for file in (*above, path, wanted))
        raise UserError(f"{where}: the files extend each other in a circle: {circle}; take one `extends` out")
    return [*_chain(wanted, (*above, path)), (path, own)]
