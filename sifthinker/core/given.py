"""Chains that a source brings: the record, and its table beside `SAMPLES` in what ingest makes.

The table is there only where a source of the configuration brings chains, in the parts of `SAMPLES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

TABLE = "given"  # its name in an artifact


@dataclass(frozen=True, slots=True)
class Given:
    """The chain that a source brings for one sample, as it stands in the file."""

    id: str  # Sample.id
    chain: str  # unchecked
    frame: str  # of the numbers of its boxes: "fractions" of the image, or of the padded "canvas"
    turn: int  # EXIF orientation by which its boxes are turned with the picture; 1 = not at all
    depth_images: tuple[str, ...]  # where its depth picture may lie in the image folder
    file: str  # Reject.file
    row: int  # Reject.row


GIVEN = pa.schema(
    [
        ("id", pa.string()),
        ("chain", pa.string()),
        ("frame", pa.string()),
        ("turn", pa.int32()),
        ("depth_images", pa.list_(pa.string())),
        ("file", pa.string()),
        ("row", pa.int64()),
    ]
)


def given(row: Mapping[str, Any]) -> Given:
    """The `Given` of a row of `GIVEN`."""
    return Given(**{**row, "depth_images": tuple(row["depth_images"])})
