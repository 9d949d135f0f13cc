"""The code that decides a result: the modules of a stage and what they import, each with its digest."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tasks.runtime import results, syntax
from tasks.runtime.syntax import Source


class Undeclared(Exception):
    """A module that decides a result imports one that tasks/runtime/results.py does not know; the message says which."""


def code(names: Iterable[str]) -> dict[str, str]:
    """The digests of logical modules and of all that decides results with them.

    Raises:
        Undeclared: a module is in no list of tasks/runtime/results.py.
    """
    return {name: digest(name) for name in sorted(closure(tuple(names)))}


@cache
def closure(names: tuple[str, ...]) -> frozenset[str]:
    """The logical modules that decide what `names` make. They themselves do in any case, neutral or not."""
    found: set[str] = set()
    frontier = set(names)
    while frontier:
        name = frontier.pop()
        found.add(name)
        imported = {_logical(module, name) for source in _sources(name) for module in _imported(source)}
        frontier |= {other for other in imported if other} - found
    return frozenset(found)


@cache
def digest(name: str) -> str:
    """The digest of a logical module alone."""
    return syntax.digest(_sources(name), name, lambda module: _meaning(module) if is_module(module) else None)


@cache
def path(module: str) -> Path | None:
    """The file of one of our modules."""
    base = results.ROOT.joinpath(*module.split("."))
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()), None)


def is_module(name: str) -> bool:
    """Whether a dotted name is one of our modules."""
    return name.partition(".")[0] in ("sifthinker", "tasks", "flows") and path(name) is not None


@cache
def _sources(name: str) -> tuple[Source, ...]:
    module = results.MODULES[name]
    return tuple(_source(dotted, module.without) for dotted in module.paths)


@cache
def _source(dotted: str, without: tuple[str, ...] = ()) -> Source:
    file = path(dotted)
    if file is None:
        raise Undeclared(
            f"tasks/runtime/results.py: there is no module {dotted}; correct its path in MODULES"
        )
    return _read(file.read_text(encoding="utf-8"), dotted, file.name == "__init__.py", without)


@cache  # by the text: a file that is the same again is not parsed again
def _read(text: str, dotted: str, package: bool, without: tuple[str, ...]) -> Source:
    return syntax.read(text, dotted, package, is_module, without)


def _imported(source: Source) -> set[str]:
    """The modules of ours that something is imported from, inside functions too.

    Importing a.b.c also runs a and a.b, but those decide nothing unless something is imported from them: our packages
    define names, and their import has no other effect.
    """
    return {bound.module for bound in source.imports if is_module(bound.module)}


@cache
def _names() -> dict[str, str]:
    return {dotted: name for name, module in results.MODULES.items() for dotted in module.paths}


def _meaning(dotted: str) -> str:
    """A module's logical name where it matters which one it is: not where none of them decides anything."""
    name = _names().get(dotted)
    return "" if name is None or results.MODULES[name].neutral else name


def _logical(dotted: str, importer: str) -> str | None:
    """The logical name of a module that counts; None for one that does not."""
    name = _names().get(dotted)
    if name is not None:
        return None if results.MODULES[name].neutral else name
    if _source(dotted).tree.body:
        raise Undeclared(
            f"{importer} decides results and imports {dotted}, which is not declared: add it to MODULES in "
            "tasks/runtime/results.py, as a module that decides results or as a neutral one with the reason"
        )
    return None  # the empty __init__ of a package
