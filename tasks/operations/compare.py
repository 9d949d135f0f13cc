"""`sif compare`: the page of a comparison in the store, and the same in the UI."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from sifthinker.evaluation import comparing
from sifthinker.store.artifacts import Store
from sifthinker.store.digests import sha256
from tasks.runtime import links, ui_artifacts


class Compared(NamedTuple):
    """A comparison."""

    text: str  # in Markdown
    page: Path
    rows: dict[str, list[dict[str, Any]]]  # for programs: comparing.rows


def compared(store: Store, names: Sequence[str], out: Path | None = None) -> Compared:
    """Compares what the names mean with the first of them.

    Args:
        store: that has it.
        names: see `comparing.find`.
        out: file of the page; none: `<store>/comparisons/<key>/report.html`.

    Raises:
        UserError: a name means nothing that was evaluated.
    """
    sides = [comparing.find(store, name) for name in names]
    pairs = comparing.compare(sides)
    key = sha256([side.evaluation for side in sides])[:16]
    page = out or store.root / "comparisons" / key / "report.html"
    with nullcontext() if out else store.sharing(page, strict=False):
        comparing.write(page, sides, pairs)
    return Compared(comparing.markdown(sides, pairs), page, comparing.rows(sides, pairs))


def show(store: Store, text: str, page: Path, names: Sequence[str]) -> None:
    """Shows a comparison in the UI."""
    whole = links.shown(store.root, page, "Open the page")
    ui_artifacts.markdown(f"{whole}\n\n{text}", "comparison", f"{', '.join(names)} compared")
