"""Which rows of the data set GRPO is evaluated on while it trains: rows that it does not train on.

Where SFT holds rows out (`sft.held_out`), they are drawn from those, which nothing was trained on. Otherwise SFT has seen
them: they still tell whether GRPO learns more than its own samples, and every adapter of it has seen them equally often.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
from datasets import Dataset

from sifthinker.config import Model, Sft
from sifthinker.core import tables
from sifthinker.core.errors import UserError

logger = logging.getLogger(__name__)

BATCH = 1000  # rows read at once


def draw(candidates: Sequence[str], trained_on: Collection[str], rows: int, seed: int) -> list[str]:
    """Ids of `rows` of the candidates that are not trained on, in the order of a hash of the seed and the id.

    Raises:
        UserError: there is none.
    """
    left = [id for id in candidates if id not in trained_on]
    if not left:
        raise UserError(
            "grpo.evaluate_steps: no row is left that GRPO does not train on; lower publish.rl_samples, or set "
            "grpo.evaluate_steps: 0"
        )
    if len(left) < rows:
        logger.warning("grpo.evaluate_rows: %d are asked for and %d are held out", rows, len(left))
    return sorted(left, key=lambda id: hashlib.sha256(f"{seed}\n{id}".encode()).digest())[:rows]


def unseen(dataset: Sequence[Path], settings: Sft, policy: Model, processor: Any) -> list[str]:
    """The ids of the rows that SFT does not train on, in the order of the data set; those of all where it trains on all.

    Args:
        dataset: the SIF Parquet files.
        settings: SFT's; its split is a function of the seed and of the rows that fit.
        policy: what decides the lengths.
        processor: of the model.
    """
    ids = _fitting(dataset, settings, policy, processor)
    if not settings.held_out:
        return ids
    split = Dataset.from_dict({"id": ids}).train_test_split(settings.held_out, seed=settings.seed)
    return list(split["test"]["id"])


def write(dataset: Sequence[Path], ids: Sequence[str], out: Path) -> None:
    """Writes the rows with these ids to one SIF Parquet file."""
    rows = ds.dataset([str(path) for path in dataset]).to_table(filter=ds.field("id").isin(list(ids)))
    assert rows.num_rows == len(ids), f"{len(ids)} ids, {rows.num_rows} rows"
    draft = out.with_suffix(".tmp")
    pq.write_table(rows, draft)
    draft.rename(out)


def _fitting(dataset: Sequence[Path], settings: Sft, policy: Model, processor: Any) -> list[str]:
    """The ids of the rows that SFT took: all, unless it may reject those that are too long."""
    if settings.too_long == "error":
        return [row["id"] for row in tables.read(dataset, ["id"])]
    from sifthinker.training import rows

    ids: list[str] = []
    records = tables.read(dataset, ["id", "question", settings.target, "width", "height"])
    while batch := list(islice(records, BATCH)):
        lengths = rows.count_tokens(processor, batch, policy.depth_input, settings.target)
        ids += [
            row["id"] for row, tokens in zip(batch, lengths, strict=True) if tokens <= settings.max_length
        ]
    return ids
