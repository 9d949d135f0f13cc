"""What chains are like, as figures: lengths, steps, depths, answers, boxes. One row a chain, and means by source.

Chains that a source brings and chains that were bought are measured alike, from the published data set. A data set has in
`steps` the depths of its own maps, and in `chain` those that the text says.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sifthinker.annotation.agreement import agrees
from sifthinker.annotation.taken import MODEL, RIGHT
from sifthinker.core import boxes, chain
from sifthinker.core.records import WHOLE
from sifthinker.core.tables import read

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ["source", "dataset", "answer", "boxes", "steps", "chain", "model"]
GROUP = ["of", "source"]  # what the figures are by


def chains(parts: Iterable[Path], of: str) -> pd.DataFrame:
    """A row for each chain of a published data set; no picture is read.

    Columns: `of` (the argument), `source`, `dataset`, `taken` (not bought), `characters` and `words` of the chain, `steps`,
    `regions` (boxes of all steps), `begins` (at the whole image), `overlap` (HIoU of the last step and the row's boxes, 0..1),
    `depth_off` (mean distance of the text's depths to the map's, 0..1), `depths_right` (share within 0.1), `answer` ("right",
    "wrong", or "unclear" where only a judge could tell).

    Args:
        parts: its Parquet files.
        of: a name for it.
    """
    import pandas as pd

    return pd.DataFrame([_row(row, of) for row in read(parts, _COLUMNS)])


def by_source(found: pd.DataFrame) -> pd.DataFrame:
    """Means and shares of `chains` by `of` and source, with the number of chains."""
    grouped = found.assign(
        answer_right=found["answer"].eq("right"), answer_unclear=found["answer"].eq("unclear")
    ).groupby(GROUP, sort=False)
    means = grouped[
        [
            "characters",
            "words",
            "steps",
            "regions",
            "begins",
            "overlap",
            "depth_off",
            "depths_right",
            "answer_right",
            "answer_unclear",
        ]
    ].mean()
    means.insert(0, "chains", grouped.size())
    means.insert(1, "taken", grouped["taken"].all())
    return means.reset_index()


def _row(row: dict[str, Any], of: str) -> dict[str, Any]:
    parsed = chain.parse(row["chain"])
    said = [region for step in parsed.steps for region in step.regions]
    mapped = [region["depth"] for step in row["steps"] for region in step]
    off = [abs(region.depth - depth) for region, depth in zip(said, mapped, strict=True)]
    same = agrees(row["answer"], parsed.answer)
    last = [region.box for region in parsed.steps[-1].regions]
    return {
        "of": of,
        "source": row["source"],
        "dataset": row["dataset"],
        "taken": row["model"] == MODEL,
        "characters": len(row["chain"]),
        "words": sum(len(step.text.split()) for step in parsed.steps),
        "steps": len(parsed.steps),
        "regions": len(said),
        "begins": [region.box for region in parsed.steps[0].regions] == [WHOLE],
        "overlap": boxes.hiou(last, row["boxes"]),
        "depth_off": sum(off) / len(off),
        "depths_right": sum(value <= RIGHT + 1e-9 for value in off) / len(off),
        "answer": {True: "right", False: "wrong", None: "unclear"}[same],
    }
