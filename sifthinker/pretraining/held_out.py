"""What a pre-trained miniature can do on scenes that it never saw, beside what can be reached without looking.

    python -m sifthinker.pretraining.held_out policy FOLDER [--scenes N] [--out scores.json]
    python -m sifthinker.pretraining.held_out depth  FOLDER [--scenes N]

The scenes are those of the stream "pretrain-held-out", which shares no random number with the others. Answers are
greedy, and right where they equal the scene's answer; an unreadable one is wrong. The blind baseline of a kind of
question is its most frequent answer among the scenes asked about, that of a box the one box with the highest mean IoU:
both know the held-out answers, which makes them harder to beat than a guesser.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForDepthEstimation, AutoModelForImageTextToText, AutoProcessor

from sifthinker.core import depth_maps, prompts
from sifthinker.core.boxes import iou
from sifthinker.models.processors import install_processors
from sifthinker.pretraining import lessons, scene_pool
from sifthinker.pretraining.scene_pool import Pool, Rendering, Seen

STREAM = "pretrain-held-out"
_BATCH = 24


def scenes(
    count: int, seed: int = 1, width: int = 224, height: int = 168, fewest: int = 2, most: int = 5
) -> list[Seen]:
    """`count` held-out scenes of `fewest` to `most` things."""
    with tempfile.TemporaryDirectory() as folder:
        held = Pool(Path(folder), seed, STREAM, width, height, fewest, most)
        rendering = Rendering(held, count)
        try:
            shards = range(-(-count // scene_pool.SHARD))
            return [seen for shard in shards for seen in scene_pool.read(held, shard, rendering)][:count]
        finally:
            rendering.stop()


def policy_scores(model: Any, processor: Any, seen: Sequence[Seen], seed: int = 0) -> dict[str, Any]:
    """Share of right answers by kind of question, and IoU and depth error of named things, each with its baseline."""
    rng = np.random.default_rng(seed)
    asked: list[tuple[int, str, str, str]] = []  # scene, kind, question, answer
    named: list[tuple[int, dict[str, Any], str]] = []
    for index, scene in enumerate(seen):
        by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for question in scene.facts["questions"]:
            by_kind[question["kind"]].append(question)
        for kind, questions in sorted(by_kind.items()):
            lesson = lessons.plain(questions[rng.integers(len(questions))], rng, options=False)
            asked.append((index, kind, lesson.asked, lesson.answer))
        for thing in scene.facts["things"]:
            if thing["names"]:
                named.append((index, thing, str(rng.choice(thing["names"]))))
    prompts_asked = [(index, text) for index, _, text, _ in asked]
    prompts_named = [(index, prompts.REC_QUESTION.format(query=name)) for index, _, name in named]
    replies = answers(model, processor, seen, [*prompts_asked, *prompts_named])
    said = [lessons.aside(rng).removesuffix("\n") + "\n" for _ in prompts_asked]
    later = answers(model, processor, seen, prompts_asked, said)
    kinds: dict[str, list[tuple[bool, str]]] = defaultdict(list)
    for (_, kind, _, answer), reply in zip(asked, replies, strict=False):
        kinds[kind].append((reply.strip() == answer, answer))
    found = [
        _located(reply, thing) for (_, thing, _), reply in zip(named, replies[len(asked) :], strict=True)
    ]
    boxes = [thing["box"] for _, thing, _ in named]
    return {
        "scenes": len(seen),
        "questions": {
            kind: {
                "asked": len(rows),
                **_share([right for right, _ in rows]),
                "blind": round(Counter(answer for _, answer in rows).most_common(1)[0][1] / len(rows), 3),
            }
            for kind, rows in sorted(kinds.items())
        },
        "questions after lines about nothing": {
            "asked": len(asked),
            **_share([reply.strip() == answer for (*_, answer), reply in zip(asked, later, strict=True)]),
        },
        "boxes": {
            "asked": len(found),
            "readable": round(statistics.fmean(iou is not None for iou, _ in found), 3),
            "mean IoU": round(statistics.fmean(iou or 0.0 for iou, _ in found), 3),
            "over half": round(statistics.fmean((iou or 0.0) > 0.5 for iou, _ in found), 3),
            "blind": round(_best_constant(boxes), 3),
            "depth error": round(statistics.fmean(error for _, error in found if error is not None), 4)
            if any(error is not None for _, error in found)
            else None,
        },
    }


@torch.inference_mode()
def answers(
    model: Any,
    processor: Any,
    seen: Sequence[Seen],
    asked: Sequence[tuple[int, str]],
    said: Sequence[str] = (),
    longest: int = 64,
) -> list[str]:
    """Greedy answers to questions (scene's index, text) in the pipeline's prompt with both pictures, no chain.

    They go on from what was `said`, one text a question, where that is given.
    """
    palette = depth_maps.palette()
    replies: list[str] = []
    for start in range(0, len(asked), _BATCH):
        rows = asked[start : start + _BATCH]
        texts = [
            processor.apply_chat_template(
                prompts.policy_messages(text, True, think=False), tokenize=False, add_generation_prompt=True
            )
            + begun
            for (_, text), begun in zip(
                rows, said[start : start + _BATCH] or itertools.repeat(""), strict=False
            )
        ]
        pictures = [
            Image.fromarray(array)
            for index, _ in rows
            for array in (seen[index].image, palette[seen[index].depth])
        ]
        batch = processor(text=texts, images=pictures, padding=True, padding_side="left", return_tensors="pt")
        made = model.generate(**batch, max_new_tokens=longest, do_sample=False)
        replies += processor.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return replies


def _located(reply: str, thing: dict[str, Any]) -> tuple[float | None, float | None]:
    """IoU and depth error of a reply's first region; None of an unreadable one."""
    try:
        region = json.loads(reply)[0]
        box = [float(value) for value in region["bbox_2d"]]
        overlap = iou(box, thing["box"])
        deep = float(region["depth"])
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError):
        return None, None
    return overlap, abs(deep - thing["depth"])


def _best_constant(boxes: Sequence[Sequence[float]]) -> float:
    """Highest mean IoU of one box for all, among a sample of them and their means."""
    values = np.array(boxes)
    candidates = [list(row) for row in values[:: max(1, len(values) // 100)]]
    candidates += [list(values.mean(axis=0)), list(np.median(values, axis=0))]
    return max(statistics.fmean(iou(candidate, box) for box in boxes) for candidate in candidates)


def _share(right: Sequence[bool]) -> dict[str, float]:
    share = statistics.fmean(right)
    return {"right": round(share, 3), "standard error": round(math.sqrt(share * (1 - share) / len(right)), 3)}


@torch.inference_mode()
def depth_scores(model: Any, processor: Any, seen: Sequence[Seen]) -> dict[str, Any]:
    """Correlation with the exact depth over a picture's pixels, and mean absolute error, over the pictures."""
    correlations, errors = [], []
    for scene in seen:
        pixels = processor(images=scene.image, return_tensors="pt")["pixel_values"]
        found = model(pixel_values=pixels).predicted_depth[None]
        size = scene.depth.shape
        mapped = torch.nn.functional.interpolate(found, size=size, mode="bicubic", align_corners=False)[
            0, 0
        ].numpy()
        truth = scene.depth.astype(np.float32) / 255
        correlations.append(float(np.corrcoef(mapped.ravel(), truth.ravel())[0, 1]))
        errors.append(float(np.abs(mapped - truth).mean()))
    return {
        "scenes": len(seen),
        "correlation": round(statistics.fmean(correlations), 4),
        "least correlation": round(min(correlations), 4),
        "mean absolute error": round(statistics.fmean(errors), 4),
    }


def loaded(what: str, folder: Path) -> tuple[Any, Any]:
    """A model's folder as a model that answers, and its processor."""
    install_processors()
    kind = AutoModelForImageTextToText if what == "policy" else AutoModelForDepthEstimation
    model = kind.from_pretrained(folder, trust_remote_code=False, use_safetensors=True, dtype=torch.float32)
    return model.eval(), AutoProcessor.from_pretrained(folder, trust_remote_code=False)


def main(arguments: list[str] | None = None) -> int:
    """Prints the scores of a model's folder on held-out scenes."""
    parser = argparse.ArgumentParser(prog="python -m sifthinker.pretraining.held_out", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("what", choices=["policy", "depth"])
    parser.add_argument("folder", type=Path, help="a model's folder")
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--out", type=Path, help="JSON that is written too")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    score = policy_scores if given.what == "policy" else depth_scores
    found = json.dumps(score(*loaded(given.what, given.folder), scenes(given.scenes)), indent=1)
    print(found)
    if given.out:
        given.out.write_text(found + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
