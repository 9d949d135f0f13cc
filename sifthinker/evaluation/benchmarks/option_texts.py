"""The texts of a question's options, as a reply may give them: what both become before they are compared."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sifthinker.evaluation.benchmarks import counts, wording

Options = Sequence[tuple[str, str]]  # (letter, text); letter "" where the question shows none

_LETTERED = re.compile(
    r"[\W_]*(?:(?:the\s+)?(?:(?:correct|right)\s+)?(?:answer|option|choice)\s*(?:is|:)?\s*)?[(\[]?\b([A-Za-z])\b[)\].:,\s-]+(.+)",
    re.I | re.S,
)


def as_said(options: Options) -> Options:
    """The options with their texts as `wording.clean` leaves a reply: "can't" is "can not" on both sides."""
    return [(letter, wording.undressed(text) or text) for letter, text in options]


def quoted(text: str, options: Options) -> int | None:
    """The index of the option whose letter and whole text a reply is, and nothing else; None where it is none.

    What an option says of itself is no doubt, refusal or denial of the reply: "D) It cannot be determined", "(B) He isn't happy".

    Args:
        text: of a reply, clean.
        options: as said.
    """
    numbers = numeric(options)
    if not (lettered := _LETTERED.fullmatch(text)):
        return None
    letter, rest = lettered[1].upper(), fold(lettered[2], numbers)
    own = [
        i for i, (named, content) in enumerate(options) if named == letter and fold(content, numbers) == rest
    ]
    return own[0] if rest and len(own) == 1 else None


def hedge(options: Options) -> bool:
    """Whether an option itself declines or doubts, as "It cannot be determined" does."""
    return any(wording.refusal(text) or wording.DOUBT.search(text) for _, text in options)


def numeric(options: Options) -> bool:
    """Whether one of the options is a whole number, in digits or as a word."""
    return any(fold(option, True).isdecimal() for _, option in options)


def fold(text: str, numbers: bool) -> str:
    """Lower-case words without articles and clause marks ("sample a" keeps its name); number words as digits on request."""
    text = re.sub(r"[.,;:!?。](?=\s|$)", " ", text.lower())
    words = re.sub(r"[^\w'.%-]+", " ", text).split()
    if numbers:
        words = [str(counts.WORDS[word]) if word in counts.WORDS else word for word in words]
    named = words[-1:] if len(words) > 1 and words[-1] == "a" else []
    return " ".join([*(word for word in words if word not in ("the", "a", "an")), *named])
