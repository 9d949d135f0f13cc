"""Whether a reply of the annotator is the chain that was asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sifthinker.annotation.agreement import agrees, plain
from sifthinker.core import chain, prompts, reasoning, special_tokens
from sifthinker.core.records import Region, Sample

_FENCED = re.compile(r"\A```\s*(<think>(?:(?!```).)*)```\Z", re.DOTALL)
_AREA = re.compile(r"(?<=<area>)[^<]*(?=</area>)")
# Phrases that betray how the chain was made; it has to read as if the answer was found by looking.
_LEAK = re.compile(
    r"\bgreen (?:bounding )?(?:box|rectangle|frame|outline)"
    r"|\b(?:given|provided|known|supplied|reference|standard|ground[- ]truth|gt) (?:final )?answer\b"
    r"|\banswer (?:is|was|has been) (?:already )?(?:given|provided|known|supplied)\b"
    r"|\bthe (?:final )?answer (?:given|provided) (?:to|in|by)\b"
    r"|\b(?:the|your|these) (?:instructions?|prompt|system message)\b"
    r"|\bas (?:instructed|requested)\b"
    r"|\bfocus on the region with the normali[sz]ed\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A reply that is the chain asked for."""

    chain: str  # canonical
    answer: str
    agrees: bool  # False: only a judge can tell whether the answer says what the reference says
    repairs: tuple[
        str, ...
    ]  # what was mended exactly: "reasoning", "fence", "box-rounding", "depth-rounding"


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a reply is not accepted; the model is shown `reason`."""

    kind: str  # countable
    reason: str


def check(reply: str, asked: Sequence[Sequence[Region]], row: Sample) -> Accepted | Refused:
    """Compares a reply with what was asked: areas, order, boxes, depths, texts and answer.

    Boxes have to be equal to 3 decimals and depths equal to the computed ones; a number that differs by its
    rounding only is replaced by the one asked for, and that is recorded. Reasoning before the chain is put aside.
    """
    text, aside = reasoning.before_chain(reply)
    repairs = ["reasoning"] if aside else []
    fenced = _FENCED.match(text)
    if fenced:
        text = fenced[1].strip()
    else:
        parts = [part for part in text.split("```") if "<think>" in part]
        if len(parts) != 1:
            return Refused(
                "malformed", "the output is not one <think> block and one <answer> in three backticks"
            )
        text = parts[0][parts[0].index("<think>") :].strip()
        repairs.append("fence")
    found = chain.areas(text)
    if found is not None:  # else the parser says what is wrong
        refused = _compare(found, asked, repairs)
        if refused:
            return refused
        exact = iter([prompts.regions_json(step) for step in asked])
        text = _AREA.sub(lambda _: next(exact), text)
    try:
        parsed = chain.parse(text)
    except chain.Malformed as error:
        return Refused("malformed", error.reason)
    if refused := unfit(parsed, row):
        return refused
    same = agrees(row.answer, parsed.answer)
    if same is False:
        return Refused("answer", f"the answer {parsed.answer!r} does not say {row.answer!r}")
    return Accepted(chain.render(parsed), parsed.answer, bool(same), tuple(repairs))


def unfit(parsed: chain.Chain, row: Sample) -> Refused | None:
    """What is wrong with the words of a chain whose areas are right."""
    said = {f"text {number}": step.text for number, step in enumerate(parsed.steps, 1)}
    for where, words in {**said, "the answer": parsed.answer}.items():
        if token := special_tokens.find(words):
            return Refused("special-token", f"{where} holds {token}; write plain text")
        if leak := _leak(words, row):
            return Refused("leak", f"{where} says {leak!r}; write only what is seen and thought")
    for number, step in enumerate(parsed.steps, 1):
        if plain(step.text) in _EXAMPLE:
            return Refused("copied", f"text {number} is the example's; write about this image")
    if len({plain(step.text) for step in parsed.steps}) < len(parsed.steps):
        return Refused("repeated", "two of the texts are the same; say what each region shows")
    return None


def _leak(words: str, row: Sample) -> str:
    """The first phrase that betrays how the chain was made; a phrase of the question or its answer betrays nothing."""
    known = f"{row.question}\n{row.answer}".casefold()
    found = (leak[0] for leak in _LEAK.finditer(words))
    return next((phrase for phrase in found if phrase.casefold() not in known), "")


def _compare(
    found: Sequence[Sequence[Region]], asked: Sequence[Sequence[Region]], repairs: list[str]
) -> Refused | None:
    """What differs; adds to `repairs` what differs by rounding only."""
    if len(found) != len(asked):
        return Refused("areas", f"{len(asked)} areas were asked for, in the given order; found {len(found)}")
    for number, (regions, wanted) in enumerate(zip(found, asked, strict=True), 1):
        expected = prompts.regions_json(wanted)
        if len(regions) != len(wanted):
            return Refused("boxes", f"area {number} has {len(regions)} boxes, asked was {expected}")
        for region, want in zip(regions, wanted, strict=True):
            if any(round(a, 3) != round(b, 3) for a, b in zip(region.box, want.box, strict=True)):
                return Refused("boxes", f"area {number} has the box {list(region.box)}, asked was {expected}")
            if not _rounds(region.depth, want.depth):
                return Refused("depths", f"area {number} has the depth {region.depth}, asked was {expected}")
            if region.box != want.box and "box-rounding" not in repairs:
                repairs.append("box-rounding")
            if region.depth != want.depth and "depth-rounding" not in repairs:
                repairs.append("depth-rounding")
    return None


def _rounds(value: float, wanted: float) -> bool:
    """Whether two depths are one number rounded differently: a unit in the third decimal, or to 2 decimals."""
    return abs(value - wanted) < 0.0010001 or value == round(wanted, 2)


_EXAMPLE = {plain(text) for text in re.findall(r"<text>([^<]+)</text>", prompts.ANNOTATOR_SYSTEM)}
