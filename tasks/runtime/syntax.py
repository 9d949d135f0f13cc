"""What of a module's text can decide a result, as a digest.

A digest is taken of the syntax tree, after everything that decides nothing is taken out of it:

* comments, layout and docstrings;
* log calls (`log.info(...)`, `job.log.warning(...)`, `logging.debug(...)`). By the rule of this project a log call has
  no effect. One that holds `:=`, `await` or `yield` stays all the same;
* the text of an exception that only people read (`TOLD`), and the message of an `assert`. The text of any other
  exception stays: `BadRow` becomes a reject, and `Malformed` is sent back to the annotator;
* the annotations of functions and of local variables, and blocks of `if TYPE_CHECKING`;
* `@stage(...)` over a function: what it declares is in the identity as values;
* how a program starts (`if __name__ == "__main__"`), and the definitions that tasks/runtime/results.py names (`without`);
* import statements: a name that one binds is replaced by what it stands for, our own modules by their logical names.
  A file can therefore move, and an import can be written otherwise.

The order of definitions counts only where a module does more than define names. No field of a node that is empty
counts either: a newer Python adds fields (3.12: `type_params`), and equal code must have one digest in all of them.

This module imports nothing but the standard library, so that any Python can compare digests with another.
"""

from __future__ import annotations

import ast
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

LENGTH = 20  # hex digits: 80 bits
# One thread at a time: Python 3.11 counts the depth of trees for all of them, and was seen to fail with "AST constructor
# recursion depth mismatch" in a flow (CPython issue 106905).
_PARSING = threading.Lock()
TRIES = 5  # to parse a text: the parsers of other libraries know nothing of that lock
# Exceptions whose text ends on a screen or in a log, and nowhere else.
TOLD = {"UserError", "StageFailed", "ProgramFailed", "ServerFailed", "AssertionError", "NotImplementedError"}
LOGGERS = {"log", "logger", "logging"}
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
_UNSEEN = {"ctx", "kind", "type_comment", "type_ignores", "lineno", "col_offset"}


@dataclass(frozen=True)
class Bound:
    """A name that an import statement binds."""

    local: str
    module: str  # "sifthinker.core.boxes"
    attribute: str  # of the module; empty: the module itself


@dataclass(frozen=True)
class Source:
    """A module as far as it can decide a result."""

    module: str
    tree: ast.Module
    imports: tuple[Bound, ...]
    taken: frozenset[str]  # names that something else than an import binds, a parameter for example


def read(
    text: str, module: str, package: bool, is_module: Callable[[str], bool], without: Iterable[str] = ()
) -> Source:
    """Parses a module and takes out what decides nothing.

    Args:
        text: of the module.
        module: its dotted name, which relative imports start from.
        package: whether it is the `__init__` of a package.
        is_module: whether a dotted name is a module of ours.
        without: names of definitions that are left out.
    """
    tree = _parsed(text)
    left_out = set(without)
    tree.body = [node for node in tree.body if not (left_out & set(defined(node)) or _starts_program(node))]
    tree = _Reduced().visit(tree)
    nodes = list(ast.walk(tree))
    imports = tuple(_imports(nodes, module, package, is_module))
    return Source(module, tree, imports, frozenset(_bound_otherwise(nodes)))


def _parsed(text: str) -> ast.Module:
    with _PARSING:
        for _ in range(TRIES - 1):
            with suppress(SystemError):
                return ast.parse(text)
        return ast.parse(text)


def digest(sources: Sequence[Source], name: str, logical: Callable[[str], str | None]) -> str:
    """The digest of a logical module, whose text may be in several files.

    Args:
        sources: its files.
        name: its logical name.
        logical: the logical name of one of our modules, "" where it makes no difference which one it is; None for a
            module that is not ours.
    """
    pairs: set[str] = set()
    texts: list[str] = []
    names: list[str] = []
    only_defines = True
    for source in sources:
        meanings = _meanings(source, name, logical)
        pairs |= {
            f"{bound.local} = {_meaning(bound, name, logical)}"
            for bound in source.imports
            if bound.local and bound.local not in meanings
        }
        ours = {
            bound.local
            for bound in source.imports
            if not bound.attribute and logical(bound.module) is not None
        }
        for text, found in _statements(source, frozenset(meanings.items()), frozenset(ours)):
            texts.append(text)
            names += found
            only_defines = only_defines and bool(found)
    if only_defines and len(set(names)) == len(names):
        texts.sort()
    return hashlib.sha256("\n".join([*sorted(pairs), *texts]).encode()).hexdigest()[:LENGTH]


@cache  # most modules are the same as when they were last looked at
def _statements(
    source: Source, meanings: frozenset[tuple[str, str]], ours: frozenset[str]
) -> list[tuple[str, list[str]]]:
    """The statements of a module as plain text, each with the names that it defines."""
    return [
        (repr(_plain(node, dict(meanings), set(ours))), list(defined(node)))
        for node in source.tree.body
        if not isinstance(node, ast.Import | ast.ImportFrom)
    ]


def defined(node: ast.stmt) -> Iterator[str]:
    """The names that a statement of a module defines, if that is all it does."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        if all(isinstance(target, ast.Name) for target in node.targets):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


class _Reduced(ast.NodeTransformer):
    """Takes out what decides nothing, but for import statements."""

    def __init__(self) -> None:
        self._in_function = False

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        node.decorator_list = [d for d in node.decorator_list if _called(d) != "stage"]
        return self._within(node, in_function=True)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._within(node, in_function=False)

    def _within(self, node: ast.AST, in_function: bool) -> ast.AST:
        before, self._in_function = self._in_function, in_function
        self.generic_visit(node)
        self._in_function = before
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        self.generic_visit(node)
        if not self._in_function:
            return node  # the field of a dataclass, or of a model that checks it
        return ast.Assign(targets=[node.target], value=node.value) if node.value else None

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        if isinstance(node.value, ast.Call) and _called(node.value) == "getLogger":
            return None
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if text or (_logs(node.value) and not _acts(node.value)):
            return None
        return self.generic_visit(node)

    def visit_Pass(self, node: ast.Pass) -> None:
        return None

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if _last_name(node.test) == "TYPE_CHECKING" else node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call) and _called(node.exc) in TOLD and not _acts(node.exc):
            node.exc = node.exc.func
        return self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)


def _last_name(node: ast.AST) -> str:
    """`c` of `c` and of `a.b.c`."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _called(node: ast.AST) -> str:
    return _last_name(node.func) if isinstance(node, ast.Call) else ""


def _logs(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    logger = node.func.value
    ours = _last_name(logger) in LOGGERS or _called(logger) in ("getLogger", "get_run_logger")
    return ours and node.func.attr in LEVELS


def _acts(node: ast.AST) -> bool:
    """Whether an expression does something that what follows could depend on."""
    acting = ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom
    return any(isinstance(inner, acting) for inner in ast.walk(node))


def _starts_program(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def _imports(
    nodes: Iterable[ast.AST], module: str, package: bool, is_module: Callable[[str], bool]
) -> Iterator[Bound]:
    """What import statements bind, anywhere in a module."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    yield Bound(alias.asname, alias.name, "")
                elif is_module(alias.name):  # `import a.b` binds a: what is written is a.b.name
                    yield Bound("", alias.name, "")
                else:
                    root = alias.name.partition(".")[0]
                    yield Bound(root, root, "")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[
                    : None if package and node.level == 1 else int(package) - node.level
                ]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                if is_module(whole):
                    yield Bound(alias.asname or alias.name, whole, "")
                else:
                    yield Bound(alias.asname or alias.name, base, alias.name)


def _meaning(bound: Bound, name: str, logical: Callable[[str], str | None]) -> str:
    """What an imported name stands for, wherever its file is."""
    ours = logical(bound.module)
    if ours is None:
        return f"<{bound.module}.{bound.attribute}>" if bound.attribute else f"<{bound.module}>"
    if ours == name and bound.attribute:  # from another file of the same logical module
        return bound.attribute
    return f"<{ours}>.{bound.attribute}" if bound.attribute else f"<{ours}>"


def _meanings(source: Source, name: str, logical: Callable[[str], str | None]) -> dict[str, str]:
    """What to write for each imported name; not for one that is also bound otherwise, as a parameter for example."""
    found: dict[str, str] = {}
    taken = set(source.taken)
    for bound in source.imports:
        meaning = _meaning(bound, name, logical)
        if bound.local and found.setdefault(bound.local, meaning) != meaning:
            taken.add(bound.local)
    return {local: meaning for local, meaning in found.items() if local not in taken}


def _bound_otherwise(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            yield from filter(None, [node.name])
        elif isinstance(node, ast.MatchMapping):
            yield from filter(None, [node.rest])
        elif isinstance(node, ast.Global | ast.Nonlocal):
            yield from node.names


def _plain(value: object, meanings: Mapping[str, str], ours: set[str]) -> object:
    """A syntax tree as nested tuples of plain values, equal in every version of Python that can parse it."""
    if isinstance(value, list):
        return [
            _plain(item, meanings, ours)
            for item in value
            if not isinstance(item, ast.Import | ast.ImportFrom)
        ]
    if not isinstance(value, ast.AST):
        return value
    if isinstance(value, ast.Constant):
        return ("Constant", type(value.value).__name__, repr(value.value))
    if isinstance(value, ast.Name) and value.id in meanings:
        return ("Name", ("id", meanings[value.id]))
    if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name):
        base = value.value.id
        if base in ours and base in meanings:  # module.name is `from module import name`
            return ("Name", ("id", f"{meanings[base]}.{value.attr}"))
    fields = [(field, getattr(value, field, None)) for field in value._fields if field not in _UNSEEN]
    if isinstance(value, ast.JoinedStr):
        fields = [("values", _joined(value.values))]
    plain = [
        (field, _plain(item, meanings, ours)) for field, item in fields if item is not None and item != []
    ]
    return (type(value).__name__, *((field, item) for field, item in plain if item != []))


def _joined(parts: Iterable[ast.expr]) -> list[ast.expr]:
    """The parts of an f-string: neighbouring texts as one, and no empty one, as not all versions of Python do."""
    joined: list[ast.expr] = []
    for part in parts:
        if not isinstance(part, ast.Constant):
            joined.append(part)
        elif joined and isinstance(before := joined[-1], ast.Constant):
            joined[-1] = ast.Constant(f"{before.value!s}{part.value!s}")
        elif part.value:
            joined.append(part)
    return joined
