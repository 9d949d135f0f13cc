"""Writes RefCOCO+'s format (PAPER.md M7.6)."""

from __future__ import annotations

import itertools
from typing import Any

from sifthinker.scenes import questions
from sifthinker.scenes.folder import SceneFolder

REFCOCO_FILE = "REC_refcoco+_unc_testB.jsonl"


def write_refcoco(folder: SceneFolder) -> dict[str, int]:
    """Writes `refcoco/`: expressions with pixel boxes, and the pictures."""
    rows: list[dict[str, Any]] = []
    scenes = folder.stream("refcoco")
    for number in itertools.count():
        missing = folder.settings.benchmark_rows - len(rows)
        if not missing:
            break
        scene, rng = next(scenes)
        image = f"scene_{number:06d}.jpg"
        # Two things a scene, each called by up to two names, as several people describe one thing in RefCOCO.
        named = [
            (index, words)
            for index in rng.permutation(len(scene.things))[:2]
            for words in questions.expressions(scene, int(index))[:2]
        ]
        rows += [
            {
                "img_path": image,
                "expression": words,
                "bbox": [float(value) for value in scene.things[index].box],
                "dataset_name": "scenes/refcocoplus",
                "height": scene.view.height,
                "width": scene.view.width,
                "image_id": number,
                "sent_id": len(rows) + offset,
                "split": "testB",
            }
            for offset, (index, words) in enumerate(named[:missing])
        ]
        folder.save(scene, "refcoco", f"refcoco/images/{image}")
    folder.lines(f"refcoco/{REFCOCO_FILE}", rows)
    return {"refcoco": len(rows)}
