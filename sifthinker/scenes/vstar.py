"""Writes V*Bench's format (PAPER.md M7.4)."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from sifthinker.scenes import questions, render
from sifthinker.scenes.folder import SceneFolder


def write_vstar(folder: SceneFolder) -> dict[str, int]:
    """Writes `vstar/`: `test_questions.jsonl`, and a folder of pictures for each category."""
    rows: list[dict[str, Any]] = []
    used: Counter[tuple[str, ...]] = Counter()
    scenes = folder.stream("vstar")
    while len(rows) < folder.settings.benchmark_rows:
        scene, rng = next(scenes)
        number = len(rows)
        spatial = number % 5 in (1, 3)  # as many as in V*Bench: 76 of 191
        asked = questions.sides(scene) if spatial else (*questions.colors(scene), *questions.shapes(scene))
        question = questions.pick(tuple(asked), used, rng)
        if question is None:
            continue
        category = "relative_position" if spatial else "direct_attributes"
        known = {"color": [*render.COLORS], "shape": [*render.SHAPES], "side": ["left", "right"]}
        others = [option for option in known[question.kind] if option != question.answer]
        wrong = [str(option) for option in rng.permutation(others)[:3]]
        # The right letter goes round, so that no letter is right more often than the others.
        right = used[(category,)] % (len(wrong) + 1)
        used[(category,)] += 1
        options = [*wrong[:right], question.answer, *wrong[right:]]
        text = question.text.replace("to the left or to the right of", "on the left or right side of")
        image = f"{category}/scene_{number:06d}"
        rows.append(
            {
                "image": f"{image}.jpg",
                "text": "\n".join([text, *questions.lettered(options), questions.LETTER]),
                "category": category,
                "label": "ABCD"[right],
                "question_id": number,
            }
        )
        folder.save(scene, "vstar", f"vstar/{image}.jpg")
        thing = scene.things[question.things[0]]
        x1, y1, x2, y2 = thing.box
        target = questions.phrase(thing.solid.size, thing.solid.color, thing.solid.shape)
        beside = {  # as published, the right option first
            "target_object": [target],
            "bbox": [[x1, y1, x2 - x1, y2 - y1]],
            "question": text,
            "options": [question.answer, *wrong],
        }
        folder.bytes(f"vstar/{image}.json", json.dumps(beside).encode())
    folder.lines("vstar/test_questions.jsonl", rows)
    return {"vstar": len(rows)}
