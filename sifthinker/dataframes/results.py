"""`Results`: the tables of a store, each as a pandas DataFrame.

Nothing is computed here that is not in the store's files. A table that a run does not have is empty, with its columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sifthinker.core import scores, tables
from sifthinker.core.errors import UserError
from sifthinker.store import runs
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Artifact, Manifest, Ref

if TYPE_CHECKING:
    import pandas as pd

PICTURES = ("image", "depth_image", "depth_map")  # columns of the data set that are large
_RUNS = ("id", "name", "started", "state", "stages")
_STAGES = ("label", "stage", "key", "in", "kept", "rejected", "made", "seconds")
_SCORES = ("label", "model", *scores.Score.__annotations__)
_ABLATION = ("row", "seeds", *scores.Score.__annotations__, "by_seed", "error")
_CURVES = ("label", "step")
# Of files that rooms above this one write; a test compares them with theirs.
_PREDICTIONS = (
    "benchmark", "id", "group", "question", "reference", "image_sha256", "prompt_sha256", "reply",
    "answer", "boxes", "read_as", "official", "strict", "unparsable", "parts", "judged", "finish_reason",
    "prompt_tokens", "completion_tokens",
)  # fmt: skip
_NIGHTS = (
    "night", "started", "name", "target", "model", "evaluation", "replayed", "benchmark", "metric",
    "official", "strict", "low", "high", "n", "unparsable", "refused", "rules", "unit", "limit",
    "missing", "regressed", "outcome",
)  # fmt: skip
_EVALUATIONS = ("evaluate", "evaluate-base", "evaluate-sft")


@dataclass(frozen=True)
class Results:
    """The results of one run of a store, and what the store holds of all runs.

    Attributes:
        store: folder of the artifacts.
        run: name or id of a run; None: the latest.
    """

    store: Path | str = "artifacts"
    run: str | None = None

    @cached_property
    def _store(self) -> Store:
        return Store.existing(Path(self.store))

    @cached_property
    def _record(self) -> dict[str, Any]:
        found = [r for r in runs.runs(self._store) if self.run in (None, r["id"], r["name"])]
        if not found:
            which = f"run {self.run}" if self.run else "run"
            raise UserError(f"{self._store.root} has no {which}; `sif status` lists the runs")
        return found[0]

    def _artifacts(self, labels: Iterable[str]) -> dict[str, Artifact]:
        """The verified artifacts of the run by label, of the labels that it has."""
        stages = self._record["stages"]
        return {label: self._store.open(Ref(**stages[label])) for label in labels if label in stages}

    def _manifests(self) -> dict[str, Manifest]:
        """By label; a stage whose artifact is gone from the store is left out."""
        found = {
            label: self._store.manifest(of["stage"], of["key"])
            for label, of in self._record["stages"].items()
        }
        return {label: manifest for label, manifest in found.items() if manifest}

    def runs(self) -> pd.DataFrame:
        """All runs of the store, the latest first: id, name, started (UTC), state, number of stages."""
        store = self._store
        rows = [{**r, "state": runs.state(store, r), "stages": len(r["stages"])} for r in runs.runs(store)]
        return _in_time(_frame(rows, _RUNS), "started")

    def stages(self) -> pd.DataFrame:
        """A row a stage of the run: rows in, kept and rejected, when it was made (UTC), and the seconds it took."""
        rows = [
            {
                "label": label,
                "stage": m["stage"],
                "key": m["key"],
                "in": m["rows"]["in"],
                "kept": m["rows"]["kept"],
                "rejected": sum(m["rows"]["rejected"].values()),
                "made": m["made"],
                "seconds": m["seconds"],
            }
            for label, m in self._manifests().items()
        ]
        return _in_time(_frame(rows, _STAGES), "made")

    def dataset(self, columns: Sequence[str] | None = None, pictures: bool = False) -> pd.DataFrame:
        """SIF-50K: `core.tables.SIF`.

        Args:
            columns: which; None: all but the pictures.
            pictures: the three large columns too, about 1 MB a row.

        Raises:
            UserError: there is no such column.
        """
        known = [name for name in tables.SIF.names if pictures or name not in PICTURES]
        if unknown := set(columns or ()) - set(tables.SIF.names):
            raise UserError(
                f"dataset: no columns {', '.join(sorted(unknown))}; there are {', '.join(tables.SIF.names)}"
            )
        wanted = list(columns) if columns is not None else known
        return _parquet(
            {label: found.parts("sif") for label, found in self._artifacts(["publish"]).items()},
            wanted,
            mark=False,
        )

    def rejects(self) -> pd.DataFrame:
        """What the stages of the run did not keep, with the reason: `label` and `core.tables.REJECTS`.

        The rejects of trainings and evaluations are among them.
        """
        having = [label for label, m in self._manifests().items() if m["rows"]["rejected"]]
        parts = {label: found.rejects() for label, found in self._artifacts(having).items()}
        return _parquet(parts, tables.REJECTS.names)

    def predictions(self) -> pd.DataFrame:
        """A row a question and evaluated model of the run: `label`, question, reply, what was read, both scores."""
        found = self._artifacts(_EVALUATIONS)
        files = {label: [each.path / "predictions.parquet"] for label, each in found.items()}
        return _parquet(files, empty=_PREDICTIONS)

    def scores(self) -> pd.DataFrame:
        """A row a metric and evaluated model of the run: `label`, `model` and `core.scores.Score`."""
        rows = [
            {"label": label, **score}
            for label, found in self._artifacts(_EVALUATIONS).items()
            for score in scores.read_with_model(found.path)
        ]
        return _frame(rows, _SCORES)

    def curves(self) -> pd.DataFrame:
        """A row a logged step of the run's trainings: `label` (sft, grpo), `step`, and all that was logged."""
        rows = []
        for label, found in self._artifacts(["sft", "grpo"]).items():
            with (found.path / "history.jsonl").open(encoding="utf-8") as lines:
                rows += [{"label": label, **json.loads(line)} for line in lines if line.strip()]
        return _frame(rows, _CURVES)

    def nights(self) -> pd.DataFrame:
        """A row a metric, checkpoint and night of the store: `evaluation.history.NIGHTS`, the earliest first."""
        files = sorted((self._store.root / "history").glob("*.parquet"))
        rows = _parquet({"": files}, mark=False, empty=_NIGHTS)
        return rows.sort_values(["started", "night"], kind="stable", ignore_index=True) if len(rows) else rows

    def ablation(self) -> pd.DataFrame:
        """A row a metric and row of the store's latest ablation: `row`, `seeds`, the score over the seeds, each seed's."""
        manifests = self._store.manifests("ablation")
        if not manifests:
            return _frame([], _ABLATION)
        file = self._store.folder("ablation", manifests[0]["key"]) / "table.json"
        document = json.loads(file.read_text(encoding="utf-8"))
        rows = [
            {"row": row["row"], "seeds": row["seeds"], **score}
            for row in document["rows"]
            for score in row["scores"]
        ]
        return _frame(rows, _ABLATION)


def _frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Rows with these columns first, and any others after them; `columns` of no rows."""
    pandas = _pandas()
    frame = pandas.DataFrame(list(rows))
    first = [name for name in columns if name in frame.columns or not len(frame)]
    return frame.reindex(columns=[*first, *(name for name in frame.columns if name not in first)])


def _in_time(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """The frame with seconds since 1970 as times in UTC."""
    return frame.assign(**{column: _pandas().to_datetime(frame[column], unit="s", utc=True)})


def _parquet(
    parts: Mapping[str, Sequence[Path]],
    columns: Sequence[str] | None = None,
    mark: bool = True,
    empty: Sequence[str] = (),
) -> pd.DataFrame:
    """Parquet files below each other.

    Args:
        parts: the files by label.
        columns: to read; None: all.
        mark: puts the label of each file in the first column.
        empty: where all columns are read, those of a table without a row.
    """
    pandas = _pandas()
    found = []
    for label, files in parts.items():
        for file in files:
            rows = pandas.read_parquet(file, columns=None if columns is None else list(columns))
            if mark:
                rows.insert(0, "label", label)
            if len(rows):
                found.append(rows)
    if found:
        return pandas.concat(found, ignore_index=True)
    return pandas.DataFrame(columns=[*(["label"] if mark else []), *(empty if columns is None else columns)])


def _pandas() -> Any:
    """pandas, imported when a table is asked for."""
    try:
        import pandas
    except ImportError as error:
        raise UserError(
            "pandas is not installed here: pip install -e '.[view]' -c constraints.txt"
        ) from error
    return pandas
