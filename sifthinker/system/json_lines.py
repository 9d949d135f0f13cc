"""Files of JSON lines that are being written while they are read, or whose writer was killed or found the disk full."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def whole_lines(path: Path, most: int | None = None) -> list[dict[str, Any]]:
    """The lines of a file, or of its last `most` bytes. A half one at the end is left out, and so is what is no JSON."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        start = max(0, path.stat().st_size - most) if most else 0
        file.seek(start)
        data = file.read()
    whole = data[data.find(b"\n") + 1 if start else 0 : data.rfind(b"\n") + 1]
    return parsed(whole.splitlines(), path)


def parsed(lines: Iterable[bytes], path: Path) -> list[dict[str, Any]]:
    """What the lines hold. Damaged ones are left out and counted in the log: what only shows a file must not fail on them."""
    found, damaged = [], 0
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            found.append(value)
        else:
            damaged += 1
    if damaged:
        logger.warning("%s: %d damaged lines are passed over", path, damaged)
    return found


def whole_size(path: Path) -> int:
    """The bytes of a file up to the end of its last whole line; 0 where there is no file."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return file.read().rfind(b"\n") + 1


def cut(path: Path) -> None:
    """Removes a half line from the end of a file. Otherwise the next line would be appended to it."""
    if path.exists() and (size := whole_size(path)) < path.stat().st_size:
        logger.warning("%s: its last line was cut off, and is removed", path)
        os.truncate(path, size)
