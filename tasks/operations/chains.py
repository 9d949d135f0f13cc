"""`sif chains`: chains of several sources side by side, from the published data sets of runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sifthinker.annotation import chain_figures
from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.reporting import chains_page
from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from sifthinker.store.digests import sha256
from sifthinker.store.manifest import Artifact, Ref

_STAGES = (
    "ingest",
    "annotate",
    "retry",
    "publish",
)  # whose rejects say why a row has no chain; retry's replace annotate's


def compared(store: Store, names: Sequence[str], out: Path | None = None) -> tuple[str, Path]:
    """Compares the chains of runs, by source.

    Args:
        store: that has them.
        names: runs, by name or id; none: the latest that published a data set.
        out: file of the page; none: `<store>/chains/<key>.html`.

    Returns:
        The figures in Markdown, and the page.

    Raises:
        UserError: there is no such run, or it has published nothing.
    """
    import pandas as pd

    made = {_name(record, names): _artifacts(store, record) for record in _records(store, names)}
    found = pd.concat(
        [chain_figures.chains(stages["publish"].parts("sif"), of) for of, stages in made.items()],
        ignore_index=True,
    )
    figures = chain_figures.by_source(found)
    rows = [one for of, stages in made.items() for one in _rows(of, stages, figures)]
    notes = [
        said for of, stages in made.items() if (said := _measured(of, stages["annotate"].manifest["notes"]))
    ]
    key = sha256([stages["publish"].ref.digest for stages in made.values()])[:16]
    page = out or store.root / "chains" / f"{key}.html"
    chains_page.write(page, found, figures, rows, notes)
    return chains_page.markdown(figures), page


def _name(record: Mapping[str, Any], names: Sequence[str]) -> str:
    return str(record["id"] if record["id"] in names else record["name"])


def _records(store: Store, names: Sequence[str]) -> Sequence[Mapping[str, Any]]:
    known = [record for record in runs.runs(store) if "publish" in record["stages"]]
    if not known:
        raise UserError(
            f"chains: {store.root} has no run with a published data set; `sif run --stop-after publish`"
        )
    if not names:
        return known[:1]
    chosen = []
    for name in names:
        one = next((record for record in known if name in (record["id"], record["name"])), None)
        if one is None:
            there = ", ".join(dict.fromkeys(record["name"] for record in known))
            raise UserError(
                f"chains: no run {name} with a published data set in {store.root}; there are: {there}"
            )
        chosen.append(one)
    return chosen


def _artifacts(store: Store, record: Mapping[str, Any]) -> dict[str, Artifact]:
    return {name: store.open(Ref(**record["stages"][name])) for name in _STAGES if name in record["stages"]}


def _rows(of: str, stages: Mapping[str, Artifact], figures: Any) -> list[chains_page.Rows]:
    """What became of the rows of each source: kept + rejected = rows of its files."""
    asked = "retry" if "retry" in stages else "annotate"
    rejected: dict[str, Counter[str]] = {}
    for name in ("ingest", asked, "publish"):
        for row in tables.read(stages[name].rejects()):
            rejected.setdefault(row["source"], Counter())[row["reason"]] += 1
    own = figures[figures["of"] == of]
    kept = dict(zip(own["source"], own["chains"], strict=True))
    sources = [*kept, *(source for source in rejected if source not in kept)]
    return [
        chains_page.Rows(of, name, int(kept.get(name, 0)), rejected.get(name, Counter())) for name in sources
    ]


def _measured(of: str, notes: Mapping[str, Any]) -> str:
    """How far published depths were off when they were taken, before any were replaced."""
    depths, pictures = notes.get("published_depths", 0), notes.get("published_pictures", 0)
    if not depths:
        return ""
    said = (
        f"{of}: as published, {depths:,} depths were off our maps by {notes['published_depths_off'] / depths:.3f} on average, "
        f"and {notes['published_depths_right'] / depths:.1%} of them by at most 0.1"
    )
    if pictures:
        said += f"; {pictures:,} depth pictures by {notes['published_pictures_off'] / pictures:.3f} a pixel"
    return f"{said}."
