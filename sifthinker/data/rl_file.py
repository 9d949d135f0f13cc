"""The RL subset by a file: rows of the data set that a file in the published format names, as the authors' 200 are.

A row of the file is found by what its id is made of (`sources.sif50k`): data set, image name, question and answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sifthinker.core.errors import BadRow, UserError
from sifthinker.core.records import Reject
from sifthinker.core.tables import read
from sifthinker.data import publish
from sifthinker.data.sources import files, sif50k


def rows(file: Path, sources: Sequence[str], parts: Sequence[Path]) -> Iterator[dict[str, Any] | Reject]:
    """The rows of `SIF` files that a file names, in the order of the parts, after a reject for each row that is not there.

    Args:
        file: in the published format.
        sources: names of the sources that bring their chains.
        parts: the data set.

    Raises:
        UserError: the file cannot be read, or none of its rows is in the data set.
    """
    known = {row["id"] for row in read(parts, ["id"])}
    found: dict[str, int] = {}
    count = 0
    for number, value in files.rows(file):
        count += 1
        try:
            id = _id(value, sources, known)
            if found.setdefault(id, number) != number:
                raise BadRow(
                    "duplicate-id", f"row {found[id]} of {file.name} is {id} too; drop one", "problem"
                )
        except BadRow as error:
            detail = error.detail
            yield Reject("subset", error.reason, detail, "", "", file.name, number, error.field)
    if not found:
        raise UserError(
            f"publish.rl_file: none of the {count} rows of {file} is in the data set of {', '.join(sources)}: give the file "
            "that belongs to it, or leave the field out to draw the rows"
        )
    yield from publish.read(parts, found)


def _id(value: Any, sources: Sequence[str], known: set[str]) -> str:
    """The id of the row in the data set.

    Raises:
        BadRow: "not-in-data-set", or what is wrong with the row itself.
    """
    if isinstance(value, BadRow):
        raise value
    if not isinstance(value, dict):
        raise BadRow("wrong-type", "a row is a JSON object; drop the row")
    ids = [sif50k.identity(value, source) for source in sources]
    here = next((id for id in ids if id in known), None)
    if here is None:
        detail = f"{ids[0]} is not in the data set: its row was rejected, or is not in the sources; `sif status` has the reasons"
        raise BadRow("not-in-data-set", detail, "problem")
    return here
