"""Whether a pre-trained miniature can list boxes: the single steps that chains which count are made of.

    python -m sifthinker.pretraining.held_out_lists FOLDER [--scenes N] [--out scores.json]

Scenes are those of the stream "pretrain-held-out" with three to six things. In each, every number of things that are
there is asked for once of each kind of list (`lessons.lists`), and "What is at BOX?" once. A list is read only if all
of it can be read. Lists "in turn" are made of single steps, in a chain's words: the first thing of a kind, then the next to the right of it,
until there is no more. They are asked for only where left edges tell which thing is the next (`questions.APART`).

    number: the reply has as many boxes as there are things
    all: it has as many, and each thing has a box of its own with an IoU over 0.5
    HIoU: as the rewards score it; an unreadable reply has 0
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sifthinker.core.boxes import hiou, iou
from sifthinker.pretraining import build, held_out, lessons, steps
from sifthinker.pretraining.scene_pool import Seen
from sifthinker.scenes import questions

FEWEST, MOST = 3, 6  # things in a scene
IN_TURN = "class, in turn"  # things of a kind, each looked for after the one before
BESIDE = "beside, in turn"  # the same of those beside another
GATE = 0.8  # the share of right numbers, at two and at three things, that chains of several looks need
_LONGEST = 160  # tokens: six boxes with names are about 130
_STEP = 64  # tokens: a look, and what is said of it
_LOOK = re.compile(r"</text>\n<area>(?P<region>\[.*?\])</area>\n<text>(?P<said>[^<]*? from 0\.\d\d:)")
_NO_MORE = build.NO_MORE.partition("{")[0]


def scores(model: Any, processor: Any, seen: Sequence[Seen], seed: int = 0) -> dict[str, Any]:
    """By kind of list and number of things: how many were asked, and the shares of right replies."""
    rng = np.random.default_rng(seed)
    asked = [(index, *question) for index, scene in enumerate(seen) for question in lessons.lists(scene, rng)]
    whats = [(index, lessons.what(scene, rng)) for index, scene in enumerate(seen)]
    replies = held_out.answers(
        model,
        processor,
        seen,
        [*((index, text) for index, _, text, _ in asked), *((index, what.asked) for index, what in whats)],
        longest=_LONGEST,
    )
    turns = [
        (kind, index, called, there)
        for index, scene in enumerate(seen)
        for kind, sets in ((IN_TURN, lessons.classes(scene)), (BESIDE, steps.places(scene)))
        for called, there in steps.turns(scene, sets, rng)
    ]
    looked = in_turn(model, processor, seen, [(index, called) for _, index, called, _ in turns])
    found: dict[str, dict[int, list[tuple[bool, bool, float]]]] = defaultdict(lambda: defaultdict(list))
    for kind, (index, there), reply in [
        *(
            (kind, (index, there), reply)
            for (index, kind, _, there), reply in zip(asked, replies, strict=False)
        ),
        *(
            (kind, (index, there), reply)
            for (kind, index, _, there), reply in zip(turns, looked, strict=True)
        ),
    ]:
        truth = [seen[index].facts["things"][thing]["box"] for thing in there]
        found[kind][len(there)].append(judged(reply, truth))
    named = [
        reply.strip() == what.answer for (_, what), reply in zip(whats, replies[len(asked) :], strict=True)
    ]
    return {
        "scenes": len(seen),
        "lists": {
            kind: {str(number): _summary(by_number[number]) for number in sorted(by_number)}
            for kind, by_number in sorted(found.items())
        },
        "gate": {
            kind: all(
                found[kind][number] and statistics.fmean(right for right, *_ in found[kind][number]) > GATE
                for number in (2, 3)
            )
            for kind in ("class", IN_TURN)
        },
        "what is at a box": {"asked": len(named), "right": round(statistics.fmean(named), 3)},
    }


def in_turn(model: Any, processor: Any, seen: Sequence[Seen], asked: Sequence[tuple[int, str]]) -> list[str]:
    """The boxes of some things (scene's index, what they are called), looked at one after another, as one list each.

    The model goes on in a chain's words from its own last look and what it said of it. Unreadable words end a list, which
    is then unreadable too; so does one box more than a scene has things, and the list stays as long as it is.
    """
    regions: list[list[Any]] = [[] for _ in asked]
    going = {number: steps.begun(called) for number, (_, called) in enumerate(asked)}  # to what is said
    unreadable: set[int] = set()
    while going:
        texts = [(asked[number][0], questions.how_many(asked[number][1])) for number in going]
        replies = held_out.answers(model, processor, seen, texts, [*going.values()], longest=_STEP)
        for number, reply in zip([*going], replies, strict=True):
            del going[number]
            if reply.startswith(_NO_MORE):
                continue
            if (found := _LOOK.match(reply)) is None or (region := _region(found["region"])) is None:
                unreadable.add(number)
                continue
            regions[number].append(region)
            if len(regions[number]) <= MOST:
                going[number] = build.SEEN.format(region=found["region"]) + found["said"]
    return ["" if number in unreadable else json.dumps(found) for number, found in enumerate(regions)]


def _region(text: str) -> Any:
    """The one region of an area, or None."""
    try:
        (region,) = json.loads(text)
        return (
            region
            if all(0 <= value <= 1 for value in region["bbox_2d"]) and len(region["bbox_2d"]) == 4
            else None
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def judged(reply: str, truth: list[list[float]]) -> tuple[bool, bool, float]:
    """Whether the number is right, whether all boxes are, and HIoU."""
    try:
        boxes = [tuple(float(value) for value in region["bbox_2d"]) for region in json.loads(reply)]
        if any(len(box) != 4 for box in boxes):
            raise ValueError("a box has four numbers")
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return False, False, 0.0
    number = len(boxes) == len(truth)
    return number, number and matched(boxes, truth), hiou(boxes, truth)


def matched(boxes: Sequence[Sequence[float]], truth: Sequence[Sequence[float]]) -> bool:
    """Whether each true box has a box of its own with an IoU over 0.5."""
    left = list(boxes)
    for one in truth:
        best = max(left, key=lambda box: iou(list(box), list(one)), default=None)
        if best is None or iou(list(best), list(one)) <= 0.5:
            return False
        left.remove(best)
    return True


def _summary(rows: Sequence[tuple[bool, bool, float]]) -> dict[str, float]:
    number = statistics.fmean(right for right, *_ in rows)
    return {
        "asked": len(rows),
        "number": round(number, 3),
        "standard error": round(math.sqrt(number * (1 - number) / len(rows)), 3),
        "all": round(statistics.fmean(right for _, right, _ in rows), 3),
        "HIoU": round(statistics.fmean(value for *_, value in rows), 3),
    }


def main(arguments: list[str] | None = None) -> int:
    """Prints the scores of a policy's folder, and ends with 1 where the gate is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m sifthinker.pretraining.held_out_lists", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="a model's folder")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--out", type=Path, help="JSON that is written too")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model, processor = held_out.loaded("policy", given.folder)
    seen = held_out.scenes(given.scenes, fewest=FEWEST, most=MOST)
    found = scores(model, processor, seen)
    text = json.dumps(found, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")
    return 0 if any(found["gate"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
