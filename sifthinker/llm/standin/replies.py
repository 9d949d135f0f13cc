"""What the stand-in server says: chains from the regions in the prompt, scores from the likeness of letters.

Pure: a reply depends on the request and on the fault that strikes it, nothing else. It is no model.
"""

from __future__ import annotations

import difflib
import json
import random
import re
from typing import Any

from sifthinker.core import prompts
from sifthinker.llm.standin import seeing

MODEL = "standin-1"
# A model's own mistakes; the other faults are the transport's.
CONTENT = (
    "truncated",
    "wrong-boxes",
    "wrong-depths",
    "wrong-answer",
    "fenceless",
    "content-filter",
    "duplicate",
)
_IMAGE_TOKENS = 300
_OTHER = '[{"bbox_2d": [0.1, 0.1, 0.9, 0.9], "depth": 0.5}]'
_REGIONS = re.compile(
    re.escape(prompts.ANNOTATOR_REGION).replace(re.escape("{regions}"), r"(\[.*?\])"), re.DOTALL
)
_ASKED = re.compile(
    re.escape(prompts.ANNOTATOR_QUESTION)
    .replace(re.escape("{question}"), "(?P<question>.*)")
    .replace(re.escape("{answer}"), "(?P<answer>.*)"),
    re.DOTALL,
)
_FENCE = re.compile(
    re.escape(prompts.JUDGE_SYSTEM.format(fence="\0")).replace(re.escape("\0"), r"(\S+)"), re.DOTALL
)


def reply(
    asked: Any, name: bytes, fault: str | None = None, eyes: seeing.Eyes | None = None
) -> dict[str, Any]:
    """The chat completion for the body of a request.

    Args:
        asked: the body.
        name: decides the wording.
        fault: one of `CONTENT`.
        eyes: see what is in the picture; None: the texts say where they are, and nothing of what is there.

    Raises:
        ValueError: it is neither the annotator's nor the judge's prompt; or the eyes cannot see its picture.
    """
    try:
        texts = [_texts(message["content"]) for message in asked["messages"]]
        images = sum(_images(message["content"]) for message in asked["messages"])
        system, user = texts[0][0], texts[1]
        limit = int(asked.get("max_tokens") or 0)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    reason = "stop"
    fence = _FENCE.match(system)
    if fence is not None:
        text = json.dumps({"score": judged(user[-1], fence[1])})
    else:
        question = _ASKED.fullmatch(user[0])
        steps = [match[1] for match in map(_REGIONS.fullmatch, user) if match]
        if question is None or not steps:
            raise ValueError("the stand-in knows the annotator's and the judge's prompts only")
        answer = question["answer"]
        if fault == "duplicate":  # the reply to another request
            steps, answer = [_OTHER, _OTHER], "a red coat"
        boxes = _boxes(steps)
        seen = None if eyes is None or fault == "duplicate" else eyes(_first(asked), boxes)
        said = None if seen is None else seeing.texts(seen, answer, question["question"], boxes)
        text = chain(steps, answer, name, fault, said)
        if fault == "content-filter":
            text, reason = "", "content_filter"
    if limit and len(text) // 4 + 1 > limit:
        text, reason = text[: 4 * limit], "length"
    prompt = sum(len(text) for parts in texts for text in parts) // 4 + _IMAGE_TOKENS * images
    usage = {"prompt_tokens": prompt, "completion_tokens": len(text) // 4 + 1}
    message = {"role": "assistant", "content": text}
    return {
        "id": f"chatcmpl-{name.hex()[:24]}",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [{"index": 0, "finish_reason": reason, "message": message, "logprobs": None}],
        "usage": {**usage, "total_tokens": sum(usage.values())},
    }


def chain(
    steps: list[str], answer: str, name: bytes, fault: str | None = None, texts: list[str] | None = None
) -> str:
    """A chain through `steps`, the JSON texts of the areas; `name` decides the wording where `texts` are not given."""
    pick = random.Random(name)
    whole = json.loads(steps[0])[0]["depth"]
    lines, previous = [], whole
    for number, step in enumerate(steps):
        regions = json.loads(step)
        text = texts[number] if texts else _said(regions, number, len(steps), previous, pick)
        previous = regions[-1]["depth"]
        if fault == "wrong-boxes" and number == len(steps) - 1:
            regions[0]["bbox_2d"] = [0.111, 0.222, 0.333, 0.444]
        if fault == "wrong-depths" and number == len(steps) - 1:
            regions[0]["depth"] = round((regions[0]["depth"] + 0.3) % 1, 3)
        lines += [f"<area>{json.dumps(regions)}</area>", f"<text>{text}</text>"]
    said = "something else entirely, qqq" if fault == "wrong-answer" else answer
    text = "\n".join(["<think>", *lines, "</think>", "<answer>", said, "</answer>"])
    if fault == "truncated":
        return "```\n" + text[: len(text) * 2 // 3]
    return text if fault == "fenceless" else f"```\n{text}\n```"


def _said(regions: list[dict[str, Any]], number: int, count: int, before: float, pick: random.Random) -> str:
    """A plain sentence about a step that uses its position and depth."""
    if number == 0:
        return (
            pick.choice(
                [
                    "The whole scene comes first",
                    "Starting from the full view",
                    "At first glance over everything",
                ]
            )
            + f", with a mean depth of {regions[0]['depth']:.3f}; the relevant part is yet to be found."
        )
    x1, y1, x2, y2 = regions[0]["bbox_2d"]
    column = ("left", "middle", "right")[min(2, int(1.5 * (x1 + x2)))]
    row = ("upper", "central", "lower")[min(2, int(1.5 * (y1 + y2)))]
    depth = sum(region["depth"] for region in regions) / len(regions)
    way = "nearer than" if depth < before else "farther than" if depth > before else "as far as"
    several = f" and {len(regions) - 1} more like it" if len(regions) > 1 else ""
    opening = pick.choice(["Looking closer at", "Moving on to", "Attention goes to", "Next comes"])
    closing = (
        pick.choice(
            ["this is where it can be seen.", "here the question is settled.", "the detail is clear now."]
        )
        if number == count - 1
        else pick.choice(
            ["it narrows the search.", "this may help.", "more detail is needed.", "worth a second look."]
        )
    )
    return f"{opening} the {row} {column} part{several}, at depth {depth:.3f}, {way} before: {closing}"


def judged(text: str, fence: str) -> float:
    """Similarity of the fenced answer and the standard answer in 0..1, by their letters and nothing else.

    Only what stands between the fences is the answer, whatever it says, and only the text between
    "Standard answer:" and the first fence is the reference.
    """
    head, _, rest = text.partition(f"\nModel's answer:\n{fence}\n")
    answer = rest.removesuffix(f"\n{fence}")
    reference = head.rpartition("\nStandard answer: ")[2]
    a, b = (" ".join(part.lower().split())[:1000] for part in (reference, answer))
    return 1.0 if a == b else round(difflib.SequenceMatcher(None, a, b, autojunk=False).ratio(), 3)


def _texts(content: Any) -> list[str]:
    return (
        [content]
        if isinstance(content, str)
        else [part["text"] for part in content if part["type"] == "text"]
    )


def _boxes(steps: list[str]) -> list[list[seeing.Box]]:
    return [[region["bbox_2d"] for region in json.loads(step)] for step in steps]


def _first(asked: Any) -> str:
    """The first picture of a request: that of the whole image."""
    return next(
        str(part["image_url"]["url"])
        for part in asked["messages"][1]["content"]
        if part["type"] == "image_url"
    )


def _images(content: Any) -> int:
    return 0 if isinstance(content, str) else sum(part["type"] == "image_url" for part in content)
