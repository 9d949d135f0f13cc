"""The page of `sif view`, as Streamlit runs it: `streamlit run page.py -- STORE [RUN]`.

Questions, answers, chains and replies are other people's text. They are shown as text and never as Markdown, which could
load pictures from elsewhere.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import streamlit as st

from sifthinker.core import rejects as told
from sifthinker.core.errors import UserError
from sifthinker.core.images import ImageLibrary
from sifthinker.core.records import Sample
from sifthinker.dataframes import Results
from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref
from sifthinker.viewing import rows

A_PAGE = 5  # rows


@st.cache_resource
def _parts(store: str, run: str | None) -> list[Path]:
    opened = Store.existing(Path(store))
    for record in runs.runs(opened):
        if run in (None, record["id"], record["name"]) and "publish" in record["stages"]:
            return opened.open(Ref(**record["stages"]["publish"])).parts("sif")
    return []


@st.cache_resource
def _index(store: str, run: str | None) -> Any:
    return rows.index(_parts(store, run))


@st.cache_resource(show_spinner="measuring depths")
def _measured(store: str, run: str | None) -> Any:
    return rows.measured(_index(store, run), _parts(store, run))


@st.cache_resource
def _rejects(store: str, run: str | None) -> Any:
    return Results(store, run).rejects()


@st.cache_resource
def _behind(store: str, run: str) -> tuple[Any, Any]:
    """The samples of a run by id, and the folders of their images."""
    opened = Store.existing(Path(store))
    [record] = [record for record in runs.runs(opened) if record["id"] == run]
    return rows.samples(opened, record), rows.library(opened, record)


def _choose(label: str, values: Any) -> list[str]:
    return st.sidebar.multiselect(label, sorted(set(values) - {""}))


def _turned(found: Any, what: str) -> Any:
    """The page of `found` that is open."""
    pages = max(1, math.ceil(len(found) / A_PAGE))
    page = int(st.number_input(f"page of {pages}", 1, pages, 1, key=f"page-{what}"))
    st.text(f"{len(found):,} {what}")
    return found.iloc[(page - 1) * A_PAGE : page * A_PAGE]


def data_set(store: str, run: str) -> None:
    """Rows with their pictures."""
    every = _index(store, run)
    if every.empty:
        st.info("This run has no published data set.")
        return
    text = st.sidebar.text_input("text in id, question, answer or chain")
    sources = _choose("source", every["source"])
    datasets = _choose("data set", every["dataset"])
    low, high = int(every["looks"].min()), int(every["looks"].max())
    steps = st.sidebar.slider("steps", low, high, (low, high)) if low < high else (low, high)
    error = 0.0
    if st.sidebar.checkbox("measure depth errors", help="decodes every depth map, once"):
        every = _measured(store, run)
        error = st.sidebar.number_input("depth error, at least", 0.0, 1.0, 0.0, 0.001, format="%.3f")
    found = rows.filtered(every, rows.Filters(tuple(sources), tuple(datasets), steps, text, error))
    shown = _turned(found, "rows")
    table = shown[["id", "question", "answer", "looks", "attempts", "depth_error"]].dropna(axis=1, how="all")
    st.dataframe(table.rename(columns={"looks": "steps"}), hide_index=True, width="stretch")
    for _, light in shown.iterrows():
        _row(rows.whole(_parts(store, run), light["part"], light["row"]))


def _row(row: dict[str, Any]) -> None:
    with st.container(border=True):
        st.text(f"{row['question']}  →  {row['answer']}")
        st.text(
            f"{row['id']} · {row['model']} · calls: {row['attempts']} · depth error: {rows.depth_error(row):.3f}"
        )
        photo, relief, panels = rows.pictures(row)
        left, right = st.columns(2)
        left.image(photo, caption="all steps, numbered; truth dashed", width="stretch")
        right.image(relief, caption="depth: red is near; truth dashed", width="stretch")
        for number, (column, panel) in enumerate(zip(st.columns(len(panels)), panels, strict=True)):
            depths = ", ".join(f"{region['depth']:.3f}" for region in row["steps"][number])
            column.image(panel, caption=f"step {number + 1}: depth {depths}", width="stretch")
        with st.expander("chain"):
            st.code(row["chain"], language=None, wrap_lines=True)


def rejected(store: str, run: str) -> None:
    """What the stages of the run did not keep."""
    every = _rejects(store, run)
    if every.empty:
        st.info("No stage of this run rejected a row.")
        return
    text = st.sidebar.text_input("text in id, file or detail")
    labels = _choose("stage", every["label"])
    reasons = _choose("reason", every["reason"])
    sources = _choose("source", every["source"])
    found = rows.rejects(every, labels, reasons, sources, text)
    counts = found.groupby(["label", "reason"]).size().rename("rows").reset_index()
    st.dataframe(counts, hide_index=True, width="stretch")
    samples, library = _behind(store, run)
    for _, reject in _turned(found, "rejects").iterrows():
        with st.container(border=True):
            st.text(f"{reject['label']}: {told.described(reject.to_dict())}")
            if sample := samples.get(reject["id"]):
                _sample(sample, library)
            for attempt in told.attempts(reject["detail"]):
                st.text(attempt["reason"])
                st.code(attempt["text"], language=None, wrap_lines=True)


def _sample(sample: Sample, library: ImageLibrary) -> None:
    st.text(f"{sample.question}  →  {sample.answer}")
    try:
        st.image(rows.boxed(sample, library), caption="truth dashed")
    except UserError as error:
        st.text(str(error))


def main(store: str, run: str | None) -> None:
    """The page."""
    st.set_page_config("SIF-50K", layout="wide")
    try:
        known = Results(store).runs()
        names = [f"{name} ({id})" for name, id in zip(known["name"], known["id"], strict=True)]
        ids = known["id"].tolist()
        named = [i for i, (id, name) in enumerate(zip(ids, known["name"], strict=True)) if run in (id, name)]
        at = st.sidebar.selectbox(
            "run", range(len(ids)), named[0] if named else 0, format_func=names.__getitem__
        )
        what = st.sidebar.radio("look at", ["data set", "rejects"])
        st.header(what)
        if ids:
            (data_set if what == "data set" else rejected)(store, ids[at])
        else:
            st.info("The store has no runs yet.")
    except UserError as error:
        st.error("This cannot be shown.")
        st.text(str(error))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
