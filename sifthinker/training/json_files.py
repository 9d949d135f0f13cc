"""Writes JSON files that are never seen half written, and numbers that JSON cannot hold."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """`values` with None for infinite numbers and NaN, which JSON cannot hold."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def write_json(path: Path, value: Any) -> None:
    """Writes `value` under a temporary name, then renames: a reader never sees half a file."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    part.replace(path)
