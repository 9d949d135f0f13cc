"""What an artifact took in tries that ended without it: kept in its work folder, and noted in its manifest.

A stage that is killed or fails is tried again, perhaps days later, and goes on from what it has. Its manifest has the time and the
calls of the process that finished it. Those of the processes before it are in the note `bought.EARLIER`, from a file that each try
writes while it runs. What a killed process bought in its last seconds (5, and 30 from a judge) is in the ledger alone, and so is
what shards on other machines bought whose try failed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sifthinker.reporting import bought
from sifthinker.system.files import read_json, write_json

FILE = "tries.json"
_SIGNS = (FILE, "*.log", "log.txt", "log-*.txt", "progress.jsonl")  # what a try writes as long as it lives

logger = logging.getLogger(__name__)
_writing = threading.Lock()  # several threads of a stage say what they have bought


def begin(work: Path, made: float | None) -> None:
    """Notes that a try begins.

    Args:
        work: the work folder of the artifact, before this try has written into it.
        made: when the making of the artifact began that is there already, in seconds since 1970: of a refresh. Tries until then
            were for that one.
    """
    tries = [found for found in _read(work) if made is None or found["began"] > made]
    if tries and tries[-1]["seconds"] is None:  # killed
        tries[-1]["seconds"] = max(0.0, _last_sign(work) - tries[-1]["began"])
    tries.append({"began": time.time(), "seconds": None, "bought": {}})
    write_json(work / FILE, {"tries": tries})


def note(work: Path, who: str, notes: Mapping[str, Any]) -> None:
    """Keeps what the present try has bought so far; a shard, which keeps no tries, may call it too.

    Args:
        work: the work folder of the artifact.
        who: bought it. Several may at the same time; what each says takes the place of what it said before.
        notes: of which those are kept that say what was bought.
    """
    with _writing:
        tries = _read(work)
        more = _bought(notes)
        if tries and more != tries[-1]["bought"].get(who, {}):
            tries[-1]["bought"][who] = more
            _keep(work, tries)


def failed(work: Path, notes: Mapping[str, Any]) -> None:
    """Ends the present try, which has bought what these `notes` say."""
    if tries := _read(work):
        tries[-1] |= {"seconds": time.time() - tries[-1]["began"], "bought": {"all": _bought(notes)}}
        _keep(work, tries)


def earlier(work: Path) -> dict[str, Any]:
    """The note about all tries but the present one; empty where there was none."""
    before = _read(work)[:-1]
    if not before:
        return {}
    summed = bought.added(part for found in before for part in found["bought"].values())
    seconds = round(sum(found["seconds"] for found in before), 3)
    return {bought.EARLIER: {"tries": len(before), "seconds": seconds, **summed}}


def forget(work: Path) -> None:
    """The artifact is made, and has the note."""
    (work / FILE).unlink(missing_ok=True)


def _read(work: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_json(work / FILE).get("tries", [])
    return found


def _bought(notes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: notes[name] for name in bought.SUMMED if notes.get(name)}


def _keep(work: Path, tries: list[dict[str, Any]]) -> None:
    try:
        write_json(work / FILE, {"tries": tries})
    except OSError as error:  # no reason to end a stage, nor to hide what it ends with
        logger.warning("%s: what this try took and bought cannot be kept: %s", work.name, error)


def _last_sign(work: Path) -> float:
    """When a killed try last wrote, in seconds since 1970: it lived at least until then."""
    return max(path.stat().st_mtime for pattern in _SIGNS for path in work.glob(pattern))
