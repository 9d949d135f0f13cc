"""Writes scenes and questions as the files that data sets and benchmarks come in (PAPER.md F2.1, F2.3, M7.1, M7.4, M7.6).

    viscot.json            one-object questions, VisCoT conversations: pixel box and box on the padded square; and those
                           that need several looks, where any are wanted, in the form of VisCoT's metadata
    tallyqa.json           counting questions, a box for every counted thing
    images/scenes/*.jpg    what those two are about
    depth/scenes/*.png     exact depth of the same pictures, 16-bit, 0 = nearest, 65535 = farthest
    sif/                   held out: viscot.json, images/scenes/*.jpg; the data set of a row names how many things
                           its scene has, "scenes-3"; of several looks also the kind, "count-3"
    vstar/                 V*Bench: test_questions.jsonl, a folder a category
    refcoco/               RefCOCO+ testB: expressions, images/
    spatialbench/          positional, existence, counting, size: .json, images, and depth in millimetres (_d)
    scenes.json            the settings, and every scene's objects: the truth behind all of the above

Training, each benchmark and the pre-training of the miniature draw their scenes from random streams of their own
(`folder.stream`).
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from sifthinker import config
from sifthinker.core import errors
from sifthinker.scenes.boxed_questions import write_sif, write_training
from sifthinker.scenes.folder import SceneFolder, written
from sifthinker.scenes.refcoco import REFCOCO_FILE, write_refcoco
from sifthinker.scenes.spatialbench import write_spatialbench
from sifthinker.scenes.vstar import write_vstar

_LOG = logging.getLogger(__name__)
_BENCHMARKS: dict[str, Callable[[SceneFolder], dict[str, int]]] = {
    "sif": write_sif,
    "vstar": write_vstar,
    "refcoco": write_refcoco,
    "spatialbench": write_spatialbench,
}


def write(out: Path, config: config.Scenes) -> dict[str, int]:
    """Renders the scenes into the folder `out`; returns how many rows each file has, by name, and "scenes".

    The folder appears whole or not at all. An earlier one of the same settings is replaced.

    Raises:
        UserError: `out` exists and is something else.
    """
    _check(out, config)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        folder = SceneFolder(Path(temporary) / "new", config)
        rows = write_training(folder)
        for name in config.benchmarks:
            rows |= _BENCHMARKS[name](folder)
        folder.finish()
        if out.exists():
            out.rename(Path(temporary) / "old")
        folder.root.rename(out)
    _LOG.info("%d scenes in %s: %s", len(folder.records), out, rows)
    return {**rows, "scenes": len(folder.records)}


def sources(folder: Path) -> tuple[config.Source, ...]:
    """A written folder's training files for the pipeline."""
    images = folder / "images"
    return (
        config.Source(name="scenes", format="viscot", path=folder / "viscot.json", images=images),
        config.Source(name="scenes-counting", format="tallyqa", path=folder / "tallyqa.json", images=images),
    )


def benchmarks(folder: Path) -> tuple[config.Benchmark, ...]:
    """A written folder's benchmarks for the pipeline."""
    known = (
        config.Benchmark(name="sif", path=folder / "sif" / "viscot.json", images=folder / "sif" / "images"),
        config.Benchmark(name="vstar", path=folder / "vstar", images=folder / "vstar"),
        config.Benchmark(
            name="refcoco",
            path=folder / "refcoco" / REFCOCO_FILE,
            images=folder / "refcoco" / "images",
            split="refcoco+_testB",
        ),
        config.Benchmark(name="spatialbench", path=folder / "spatialbench", images=folder / "spatialbench"),
    )
    return tuple(benchmark for benchmark in known if (folder / benchmark.name).is_dir())


def _check(out: Path, settings: config.Scenes) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        earlier = json.loads((out / "scenes.json").read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.UserError(
            f"{out}: exists and is no folder of scenes; name another or move it away"
        ) from error
    if earlier != written(settings):
        raise errors.UserError(
            f"{out}: holds scenes of other settings, {earlier}; name another folder or move it away"
        )
