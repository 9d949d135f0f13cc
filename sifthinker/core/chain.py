"""The grammar of chains: the one parser and the one renderer that prompt, annotation, reward and evaluation share.

    <think>
    <area>[{"bbox_2d": [0.0, 0.0, 1.0, 1.0], "depth": 0.512}]</area>
    <text>What is seen there.</text>
    ... more pairs of <area> and <text> ...
    </think>
    <answer>
    The answer.
    </answer>

PAPER.md P1.3: `<think>(<area>..</area><text>..</text>)+</think><answer>..</answer>`, an area being a JSON list of
boxes with depth. Two readings of it:

`strict` (default): the whole text is that and white space between the elements. Every area is a non-empty JSON list
of objects with exactly `bbox_2d` (4 numbers in 0..1, x2 > x1, y2 > y1) and `depth` (0..1), numbers of at most 3
decimals by value (1e-3 is 0.001). Every text and the one answer are non-empty and hold nothing that looks like a tag
(`<word>`, `</word>`), so no second answer can hide.

`release`: what the authors' validate_format accepts (PAPER.md R5.1): text around the two
blocks, further answers, empty areas, further or repeated keys, and true and false as numbers pass as well.

The scan is linear in the text's length: tags are found once, left to right, and nothing is tried twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from sifthinker.core.prompts import regions_json
from sifthinker.core.records import Box, Region
from sifthinker.core.special_tokens import TAG

_ORDER = ("<area>", "</area>", "<text>", "</text>")
_LONGEST_AREA = 100_000  # characters; thousands of boxes, far more than any reply has
_LONGEST_NUMBER = 30  # characters of a literal; keeps hostile integers and fractions cheap
_DEEPEST = (
    20  # brackets inside brackets; a valid area has 3, the JSON decoder's own limit is a stack overflow
)
_BRACKET = re.compile(r"[\[\]{}]")


class Malformed(ValueError):
    """A text is no chain. The message says what is wrong and where; the annotator model is shown it too.

    Attributes:
        reason: what is wrong, and the position.
        position: index of the character in the text.
    """

    def __init__(self, reason: str, position: int) -> None:
        """Adds the position to `reason`.

        Args:
            reason: what is wrong, without a full stop.
            position: index of the character in the text, from 0.
        """
        self.reason = f"{reason} (at character {position})"
        self.position = position
        super().__init__(self.reason)


@dataclass(frozen=True, slots=True)
class Step:
    """One look: the regions of an `<area>` (boxes and depths in 0..1) and what the `<text>` after it says."""

    regions: tuple[Region, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain of thought: looks in order, then the answer."""

    steps: tuple[Step, ...]
    answer: str


def parse(text: str, variant: str = "strict") -> Chain:
    """The chain that `text` is; texts and answer are without the white space around them.

    Args:
        text: a whole reply or completion.
        variant: "strict" (PAPER.md D1.1) or "release" (R5.1); see the module.

    Returns:
        The chain; boxes are in 0..1 of the image, depths 0 (nearest) to 1 (farthest).

    Raises:
        Malformed: `text` is no chain in this reading.
        ValueError: unknown variant.
    """
    if variant not in ("strict", "release"):
        raise ValueError(f"unknown chain variant {variant!r}; known: strict, release")
    strict = variant == "strict"
    think, think_end, after_think = _block(text, "think", 0)
    answer_start, answer_end, after_answer = _block(text, "answer", after_think if strict else 0)
    if strict:
        _only_space(text, 0, think - len("<think>"), "before <think>")
        _only_space(text, after_think, answer_start - len("<answer>"), "between </think> and <answer>")
        _only_space(text, after_answer, len(text), "after </answer>")
        stray = TAG.search(text, answer_start, answer_end)
        if stray:
            raise Malformed(f"the answer holds the tag {_short(stray.group())}", stray.start())
    found = text[answer_start:answer_end].strip()
    if not found:
        raise Malformed("the answer is empty", answer_start)
    return Chain(tuple(_steps(text, think, think_end, strict)), found)


def is_valid(text: str, variant: str = "strict") -> bool:
    """Whether `parse` accepts `text` in this reading.

    Raises:
        ValueError: unknown variant.
    """
    try:
        parse(text, variant)
    except Malformed:
        return False
    return True


def render(chain: Chain) -> str:
    """The canonical text of a chain, in the release's layout, numbers rounded to 3 decimals.

    `parse` reads the same chain from it.

    Raises:
        ValueError: no text says this chain: an empty or tagged text or answer, white space around one, no step, a
            step without regions, or a region that is invalid with 3 decimals.
    """
    pairs = "".join(
        f"<area>{regions_json(step.regions)}</area>\n<text>{step.text}</text>\n" for step in chain.steps
    )
    text = f"<think>\n{pairs}</think>\n<answer>\n{chain.answer}\n</answer>"
    read = parse(text)
    if read.answer != chain.answer or [s.text for s in read.steps] != [s.text for s in chain.steps]:
        raise ValueError("the chain cannot be written: there is white space around its answer or a text")
    return text


def answer(text: str) -> str | None:
    """What the answer block of a reply says, whatever surrounds it.

    Returns:
        The text without the white space around it; None if there is no answer block, an empty one, or more than one
        (the release takes the first: R1.3).
    """
    if text.count("<answer>") != 1 or text.count("</answer>") != 1:
        return None
    start, end = text.index("<answer>") + len("<answer>"), text.index("</answer>")
    return text[start:end].strip() or None


def areas(text: str) -> list[list[Region]] | None:
    """The areas of a reply, whatever surrounds them; None where there is none or one of them is malformed.

    For evaluation and the release's rewards: neither think, texts nor answer are asked for, an area may be an empty
    list and numbers may have any decimals. Tags must pair and the JSON must be as in a strict chain.

    Returns:
        The regions of each area, in order; boxes and depths in 0..1.
    """
    tags = [tag for tag in TAG.finditer(text) if tag.group() in ("<area>", "</area>")]
    if not tags or len(tags) % 2:
        return None
    found = []
    for opening, closing in zip(tags[::2], tags[1::2], strict=True):
        if (opening.group(), closing.group()) != ("<area>", "</area>"):
            return None
        try:
            items = _json(text, opening.end(), closing.start(), strict=True, name="area")
            found.append([_region(item, opening.end(), "area", strict=True, decimals=None) for item in items])
        except Malformed:
            return None
    return found


def _block(text: str, name: str, start: int) -> tuple[int, int, int]:
    """Start and end of what the first `<name>` from `start` on encloses, and the end of `</name>`."""
    opening = text.find(f"<{name}>", start)
    if opening < 0:
        raise Malformed(f"there is no <{name}>", len(text))
    inside = opening + len(name) + 2
    closing = text.find(f"</{name}>", inside)
    if closing < 0:
        raise Malformed(f"<{name}> is not closed by </{name}>", opening)
    return inside, closing, closing + len(name) + 3


def _steps(text: str, start: int, end: int, strict: bool) -> Iterator[Step]:
    """The pairs of area and text between `start` and `end`."""
    regions: tuple[Region, ...] = ()
    last = start
    count = 0
    for tag in TAG.finditer(text, start, end):
        expected = _ORDER[count % 4]
        number = count // 4 + 1
        if tag.group() != expected:
            raise Malformed(f"expected {expected} of pair {number}, found {_short(tag.group())}", tag.start())
        if expected in ("<area>", "<text>"):
            _only_space(text, last, tag.start(), f"before {expected} of pair {number}")
        elif expected == "</area>":
            name = f"area {number}"
            items = _json(text, last, tag.start(), strict, name)
            if strict and not items:
                raise Malformed(f"{name}: the list is empty", last)
            regions = tuple(_region(item, last, name, strict, decimals=3) for item in items)
        else:
            said = text[last : tag.start()].strip()
            if not said:
                raise Malformed(f"text {number} is empty", last)
            yield Step(regions, said)
        last = tag.end()
        count += 1
    if count == 0 or count % 4:
        raise Malformed(f"expected {_ORDER[count % 4]} of pair {count // 4 + 1}, found the end of think", end)
    _only_space(text, last, end, "before </think>")


def _number(literal: str) -> float:
    if len(literal) > _LONGEST_NUMBER:
        raise ValueError(f"a number has {len(literal)} characters")
    return float(literal)


def _no_number(literal: str) -> NoReturn:
    raise ValueError(f"{literal} is not a number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is repeated")
    return found


_DECODERS = {  # by strict
    False: json.JSONDecoder(parse_int=_number, parse_float=_number, parse_constant=_no_number),
    True: json.JSONDecoder(
        parse_int=_number, parse_float=_number, parse_constant=_no_number, object_pairs_hook=_unique
    ),
}


def _json(text: str, start: int, end: int, strict: bool, name: str) -> list[Any]:
    """The JSON list between `start` and `end`."""
    if end - start > _LONGEST_AREA:
        raise Malformed(f"{name}: {end - start} characters are too long", start)
    depth = 0
    for bracket in _BRACKET.findall(text, start, end):
        depth += 1 if bracket in "[{" else -1
        if depth > _DEEPEST:
            raise Malformed(f"{name}: brackets are nested too deeply", start)
    try:
        items = _DECODERS[strict].decode(text[start:end])
    except json.JSONDecodeError as error:
        raise Malformed(f"{name} is not JSON: {error.msg}", start + error.pos) from None
    except ValueError as error:
        raise Malformed(f"{name}: {error}", start) from None
    if not isinstance(items, list):
        raise Malformed(f"{name}: not a JSON list", start)
    return items


def _region(item: Any, position: int, name: str, strict: bool, decimals: int | None) -> Region:
    """A region of a decoded JSON object."""

    def fail(reason: str) -> NoReturn:
        raise Malformed(f"{name}: {reason}", position)

    def fraction(value: Any, of: str) -> float:
        if isinstance(value, bool) and not strict:
            value = float(value)
        if not isinstance(value, float):
            fail(f"{of} holds {_short(json.dumps(value))}, which is not a number")
        if not 0 <= value <= 1:
            fail(f"{of} holds {value:g}, which is not between 0 and 1")
        if decimals is not None and round(value, decimals) != value:
            fail(f"{of} holds {value!r}, which has more than {decimals} decimals")
        return value + 0.0  # -0.0 becomes 0.0

    if not isinstance(item, dict):
        fail(f"{_short(json.dumps(item))} is not an object with bbox_2d and depth")
    missing = [key for key in ("bbox_2d", "depth") if key not in item]
    if missing:
        fail(f"{missing[0]} is missing in {_short(json.dumps(item))}")
    if strict and len(item) > 2:
        fail(f"keys other than bbox_2d and depth in {_short(json.dumps(item))}")
    numbers = item["bbox_2d"]
    if not isinstance(numbers, list) or len(numbers) != 4:
        fail(f"bbox_2d is {_short(json.dumps(numbers))}, not a list of 4 numbers")
    x1, y1, x2, y2 = (fraction(value, "bbox_2d") for value in numbers)
    if x2 <= x1 or y2 <= y1:
        fail(f"bbox_2d {[x1, y1, x2, y2]} needs x2 > x1 and y2 > y1")
    box: Box = (x1, y1, x2, y2)
    return Region(box, fraction(item["depth"], "depth"))


def _only_space(text: str, start: int, end: int, where: str) -> None:
    """Fails where there is anything but white space between `start` and `end`."""
    between = text[start:end]
    rest = between.lstrip()
    if rest:
        raise Malformed(f"text {where}: {_short(rest)!r}", start + len(between) - len(rest))


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
