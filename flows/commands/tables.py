"""The one way in which commands print tables: for people, or as JSON with `--json`.

A row is a mapping of plain values, whose names are the JSON's and stay. Columns say what of it people see, and how.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from flows.commands.options import console, plain

JsonOption = Annotated[bool, typer.Option("--json", help="as JSON, for programs")]
Row = Mapping[str, Any]
MOST = 10_000  # columns: wider than any table


@dataclass(frozen=True)
class Column:
    """A column of a table for people.

    Attributes:
        head: its heading.
        of: the name of the value, or what makes the cell's text of the row.
        colours: of the cell, by its text.
        spare: where the terminal is too narrow for the table, the columns of the highest number are left out first; 0: never.
    """

    head: str
    of: str | Callable[[Row], str]
    colours: Mapping[str, str] = field(default_factory=dict)
    spare: int = 0

    def cell(self, row: Row) -> Text:
        """What people see of a row."""
        text = _text(row.get(self.of)) if isinstance(self.of, str) else self.of(row)
        return Text(text, style=self.colours.get(text, ""))


class Printed:
    """What one command prints. JSON is printed at its end, in one piece: the array of a table, or an object of several."""

    def __init__(self, as_json: bool, *names: str) -> None:
        """Prints nothing yet.

        Args:
            as_json: for programs, instead of for people.
            names: of the command's tables. One: its array is the JSON. Several: an object, with `[]` for tables that it
                does not come to.
        """
        self.as_json = as_json
        self._found: dict[str, Any] = {name: [] for name in names}
        self._alone = names[0] if len(names) == 1 else None

    def __enter__(self) -> Printed:
        """The same."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Prints the JSON, also where the command ends with an exit code; not after an error."""
        if self.as_json and (error is None or isinstance(error, typer.Exit)):
            found = self._found if self._alone is None else self._found[self._alone]
            typer.echo(json.dumps(as_plain(found), indent=1, ensure_ascii=False))

    def table(
        self, name: str, columns: Sequence[Column], rows: Iterable[Row], nothing: str = "", title: str = ""
    ) -> None:
        """Prints a table.

        Args:
            name: in the JSON.
            columns: for people.
            rows: all of them.
            nothing: what people read where there is no row; otherwise the empty table is left out.
            title: a line above it.
        """
        given = list(rows)
        self._found[name] = given
        if self.as_json:
            return
        if not given:
            if nothing:
                self.say(nothing)
            return
        if title:
            self.say(title)
        kept, shown = list(columns), _laid_out(columns, given)
        while (spare := max(column.spare for column in kept)) and _width(shown) > console.width:
            kept = [column for column in kept if column.spare != spare]
            shown = _laid_out(kept, given)
        console.print(shown)
        if left_out := [column.head for column in columns if column not in kept]:
            self.say(
                f"The terminal is too narrow for: {', '.join(left_out)}. A wider one shows them, and so does --json."
            )

    def lines(self, heads: Sequence[str], rows: Iterable[Sequence[str | Text]], title: str = "") -> None:
        """Prints a table that only people read: programs have its values elsewhere in the JSON."""
        if self.as_json:
            return
        if title:
            self.say(title)
        shown = Table(*heads, box=None, pad_edge=False)
        for row in rows:
            shown.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
        console.print(shown)

    def value(self, name: str, value: Any) -> None:
        """Adds a value that only programs read."""
        self._found[name] = value

    def say(self, text: str = "", style: str = "") -> None:
        """Prints a line for people."""
        if not self.as_json:
            console.print(plain(text), style=style, highlight=False, soft_wrap=True)


def _laid_out(columns: Sequence[Column], rows: Iterable[Row]) -> Table:
    shown = Table(*(column.head for column in columns), box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*(column.cell(row) for column in columns))
    return shown


def _width(table: Table) -> int:
    """How many columns of a terminal the table needs if no cell of it is wrapped."""
    return console.measure(table, options=console.options.update(width=MOST)).maximum


def as_plain(value: Any) -> Any:
    """A value as JSON has it: records as objects, paths as text, and null where a number is none."""
    if is_dataclass(value) and not isinstance(value, type):
        return as_plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): as_plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)
