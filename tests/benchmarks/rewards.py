"""The four rewards of a group of 8 completions, the judge's scores given, against the authors' way.

Written anew from PAPER.md R5.1 to R5.9: the format by tags and JSON, areas by a regular
expression, HIoU by polygons, and for every completion the depth picture opened and decoded again. Ours is timed with
its `release` variants, which score alike; the map is read and summed up once a group, within the time.
"""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

from sifthinker.core import chain, depth_maps
from sifthinker.core.records import WHOLE, Region, boxes
from sifthinker.rewards import REWARDS
from tests.benchmarks.boxes import hiou
from tests.benchmarks.depth import coloured, mean, random_boxes, scene
from tests.benchmarks.pair import Pair, Work, close

GROUP = 8
_TAGS = ["<area>", "</area>", "<text>", "</text>"]


def prepare(folder: Path, size: int) -> None:
    """`size` groups: a map, true boxes, and 8 completions, some wrong and some that are no chain."""
    draw = random.Random(0)
    groups = []
    for number in range(size):
        made = scene(number)
        (folder / f"{number}.png").write_bytes(depth_maps.encode(made))
        depth_maps.render(made).save(folder / f"{number}_d.png")
        texts = [_completion(made, draw, broken=index == 5) for index in range(GROUP)]
        scores = [draw.random() for _ in texts]
        groups.append({"texts": texts, "truth": random_boxes(2, draw), "scores": scores, "mean": 0.4})
    (folder / "groups.json").write_text(json.dumps(groups))


def _completion(made: depth_maps.Map, draw: random.Random, broken: bool) -> str:
    looks = [[WHOLE], *(list(boxes(random_boxes(draw.randint(1, 3), draw))) for _ in range(3))]
    steps = []
    for look in looks:
        stated = [round(min(1.0, depth_maps.box_depth(made, box) * draw.choice((1, 1.3))), 3) for box in look]
        steps.append(chain.Step(tuple(map(Region, look, stated)), "Here it can be seen."))
    text = chain.render(chain.Chain(tuple(steps), "Yes"))
    return text.replace("</text>", "", 1) if broken else text


def ours(folder: Path, size: int) -> Work:
    groups = json.loads((folder / "groups.json").read_text())

    def work() -> list[float]:
        values: list[Any] = []
        for number, group in enumerate(groups):
            texts, truth = group["texts"], boxes(group["truth"])
            known = depth_maps.SummedArea(depth_maps.decode_bytes((folder / f"{number}.png").read_bytes()))
            values += REWARDS["format"](texts, "release")
            values += REWARDS["answer"](group["scores"], [group["mean"]] * GROUP, "release")
            values += REWARDS["grounding"](texts, [truth] * GROUP, "release")
            values += REWARDS["depth"](texts, [known] * GROUP, "release")
        return values

    return work


def authors(folder: Path, size: int) -> Work:
    groups = json.loads((folder / "groups.json").read_text())

    def work() -> list[float]:
        values: list[float] = []
        for number, group in enumerate(groups):
            texts = group["texts"]
            values += [float(_format(text)) for text in texts]
            values += [s + max(0.0, s - group["mean"]) for s in group["scores"]]
            values += [_grounding(text, group["truth"]) for text in texts]
            values += [_depth(text, folder / f"{number}_d.png") for text in texts]
        return values

    return work


def _format(text: str) -> bool:
    think = re.search(r"<think>(.*?)</think>", text, re.DOTALL)
    if not think or not re.search(r"<answer>\s*\S.*?</answer>", text, re.DOTALL):
        return False
    tags = re.findall(r"</?\w+>", think[1])
    if not tags or len(tags) % 4 or tags != _TAGS * (len(tags) // 4):
        return False
    areas = re.findall(r"<area>(.*?)</area>", think[1], re.DOTALL)
    if not all(said.strip() for said in re.findall(r"<text>(.*?)</text>", think[1], re.DOTALL)):
        return False
    return all(_number(n) for area in areas for o in json.loads(area) for n in (*o["bbox_2d"], o["depth"]))


def _number(value: float) -> bool:
    return 0 <= value <= 1 and len(str(value).partition(".")[2]) <= 3


def _areas(text: str) -> list[Any]:
    return [json.loads(area) for area in re.findall(r"<area>(.*?)</area>", text, re.DOTALL)]


def _grounding(text: str, truth: list[list[float]]) -> float:
    looks = [[o["bbox_2d"] for o in area] for area in _areas(text)]
    first = next((look for look in looks if look != [list(WHOLE)]), [list(WHOLE)])
    start, end = hiou(first, truth), hiou(looks[-1], truth)
    return end + max(0.0, end - start)


def _depth(text: str, picture: Path) -> float:
    values = coloured(picture)
    regions = [o for area in _areas(text) for o in area]
    right = 0
    for region in regions:
        truth = mean(values, region["bbox_2d"])
        right += truth > 0 and abs(region["depth"] - truth) / truth <= 0.1
    return right / len(regions)


PAIRS = [
    Pair(
        "four rewards of a group of 8, judge apart",
        "regular expressions, polygons, a tree for every completion",
        50, 1, 1, "groups", prepare, ours, authors, close(1e-6), rounds=7,
    )
]  # fmt: skip
