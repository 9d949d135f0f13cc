"""The ways in which a reply fails, beside being wrong.

A score says how many replies are right. These kinds say what became of the others, and of replies whose answer was read
although something is amiss: a chain without a box, a reply that was cut off. A model can hold its scores and fail in
another way than before; drift.py looks for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sifthinker.evaluation.benchmarks.question import REFUSALS

UNPARSABLE, REFUSED, CUT_OFF, NO_BOX = "unparsable", "refused", "cut off", "no box"
KINDS = {  # kind: what is said of a share of the replies
    UNPARSABLE: "are unparsable",
    REFUSED: "are refusals",
    CUT_OFF: "are cut off",
    NO_BOX: "have no box",
}
COLUMNS = ["unparsable", "finish_reason", "boxes"]  # of `predictions.parquet`, that `kinds` reads


def kinds(row: Mapping[str, Any]) -> frozenset[str]:
    """The kinds of failure of a row of `predictions.parquet`.

    * unparsable: the strict rule could read nothing, for whatever reason; each refusal and most cut-off replies are.
    * refused: it declines, or says that it sees no picture, or the provider refused it.
    * cut off: it ended at `evaluate.max_tokens`, read or not.
    * no box: its last area holds no valid box. A benchmark that asks plain questions has only such replies.
    """
    found = {
        UNPARSABLE: bool(row["unparsable"]),
        REFUSED: row["unparsable"] in REFUSALS or row["finish_reason"] in REFUSALS,
        CUT_OFF: row["finish_reason"] == "length",
        NO_BOX: not row["boxes"],
    }
    return frozenset(kind for kind, fails in found.items() if fails)
