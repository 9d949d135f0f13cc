"""Rows of SIF-50K as the trainers take them: messages with place-holders, and pictures decoded when a batch is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from datasets import Dataset, Image
from PIL import Image as Pillow

from sifthinker.core import images, prompts
from sifthinker.core.errors import UserError
from sifthinker.models import processors


def open_parquet(paths: tuple[Path, ...], columns: list[str], work: Path) -> Dataset:
    """The rows of SIF Parquet files; the pictures stay on disk (memory-mapped, in `work/dataset`) as file bytes.

    Raises:
        UserError: a file is missing, is not Parquet, lacks a column, or there are no rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    for path in paths:
        try:
            schema, count = pq.read_schema(path), pq.read_metadata(path).num_rows
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"dataset: {path}: not a readable Parquet file: {error}") from error
        if missing := sorted(set(columns) - set(schema.names)):
            raise UserError(
                f"dataset: {path}: lacks the columns {missing}; give the output of the publish stage"
            )
        rows += count
    if not rows:
        raise UserError(f"dataset: {', '.join(map(str, paths))}: no rows to train on")
    dataset = Dataset.from_parquet(
        [str(path) for path in paths], columns=columns, cache_dir=str(work / "dataset")
    )
    for name in {"image", "depth_image"} & set(columns):
        dataset = dataset.cast_column(name, Image(decode=False))
    return dataset


def image_columns(depth_input: bool) -> list[str]:
    """The picture columns that the policy sees, in the order of the prompt's place-holders."""
    return ["image", "depth_image"] if depth_input else ["image"]


def conversation(row: Mapping[str, Any], depth_input: bool, think: bool = True) -> dict[str, Any]:
    """The prompt of a row (one user's turn, as in evaluation and serving) and its pictures.

    Raises:
        UserError: a picture cannot be read; it names the row.
    """
    try:
        pictures = [picture(row[name]["bytes"]) for name in image_columns(depth_input)]
    except images.BadImage as error:
        raise UserError(
            f"{row['id']}: a picture of this row cannot be read: {error}; publish the data set again"
        ) from error
    return {"prompt": prompts.policy_messages(row["question"], depth_input, think), "images": pictures}


# A group of completions asks for the same two pictures again and again. One of 50 megapixels takes 150 MB.
@lru_cache(maxsize=8)
def picture(data: bytes) -> Pillow.Image:
    """The picture of a file's bytes.

    Raises:
        BadImage: they hold none.
    """
    return images.rgb(data, "a picture of the data set")


def count_tokens(
    processor: Any, rows: Sequence[Mapping[str, Any]], depth_input: bool, target: str | None = "chain"
) -> list[int]:
    """The tokens of each row: of its prompt and its target, or of the prompt alone where `target` is None.

    No picture is opened, since both have the row's `width` and `height`.
    """
    texts, pictures = [], []
    for row in rows:
        written = row[target] if target else None
        messages = prompts.policy_messages(row["question"], depth_input, target != "answer", written)
        texts.append(
            processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=not target)
        )
        size = (row["height"], row["width"])
        sizes = [size] * len(image_columns(depth_input))
        pictures.append(sum(processors.picture_lengths(processor, sizes)))
    tokens = processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
    holders = len(image_columns(depth_input))  # each place-holder is one token of the text
    return [len(ids) - holders + extra for ids, extra in zip(tokens, pictures, strict=True)]
