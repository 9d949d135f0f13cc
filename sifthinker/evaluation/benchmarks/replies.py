"""What a reply says, as a person reads it: the option, the number, the yes or no, the boxes.

One reading or none. A reply that names two things, takes one back, or names nothing is not read, and says why:
nothing is guessed, and nothing here ever sees the right answer. The published rules, which do guess, stand in
each benchmark's `official`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from sifthinker.core import chain
from sifthinker.core.records import Box
from sifthinker.evaluation.benchmarks.question import Answer, Question, Verdict

Options = Sequence[tuple[str, str]]  # (letter, text); letter "" where the question shows none

_NAMES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"""
_WORDS = {name: i if i <= 20 else 10 * (i - 18) for i, name in enumerate(_NAMES.split())}
_TENS = _NAMES.split()[20:]
_FILLERS = """the a an it its is are was were be there in on of to at by with and or that this than from for as has
have"""
_FUNCTION_WORDS = frozenset(_FILLERS.split())
# After "the answer is", "Answer:", "my choice would be", "the correct option is".
_ANSWER_CUE = re.compile(
    r"\b(?:answer|choice|option)\b(?:\s+(?:is|would\s+be|should\s+be|must\s+be)\b\s*:?|\s*[:=])", re.I
)
_THEREFORE = re.compile(r"\b(?:therefore|thus|hence|so|in\s+total|in\s+all)\b", re.I)
_DOUBT = re.compile(
    r"\b(?:can(?:no|')t(?:\s+be)?\s+(?:determine|tell|say|answer|see|know|identif|(?:help|assist)\s+(?:with|you))|can\s+not\s+(?:determine|tell|say)"
    r"|unable\s+to|not\s+(?:sure|certain|possible|clear)|(?:don't|do\s+not)\s+know|unclear|impossible|uncertain)",
    re.I,
)
_RIGHT = re.compile(r"\bis the right (?:one|answer|choice|option)\b", re.I)  # no direction
_NEGATED = re.compile(r"(?:\b(?:not|never|nor|neither|rather than|instead of)|n't)(?: \w+){0,3} *$")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?!\w)")
_BOX = re.compile(r"\[\s*" + r"\s*,\s*".join([r"(-?\d+(?:\.\d+)?)"] * 4) + r"\s*\]")


class Reading(NamedTuple):
    """What was read, or why nothing was."""

    value: str = ""
    problem: str = ""  # "empty", "none-named", "several-named", "contradictory", "doubt"


def read(reply: str, think: bool, finish_reason: str = "stop") -> Answer:
    """What of a reply is scored.

    The text is that of the answer block. Without one, a reply that was asked to think has no answer, and a plain
    one (`think` false) is its own answer. The boxes are those of the last area, or, in a plain reply without
    areas, the lists of four numbers in it.
    """
    text = chain.answer(reply)
    start, end = reply.rfind("<area>"), reply.rfind("</area>")
    boxes: tuple[Box, ...] = ()
    area = ""
    if start >= 0 and end > start:
        area = reply[start : end + len("</area>")]
        boxes = tuple(region.box for region in (chain.areas(area) or [[]])[-1])
    elif not think:
        area = reply
        found = boxes_in(reply)
        boxes = tuple(found) if all(map(is_box, found)) else ()
    if text is None and think:
        return Answer("", boxes, area, "cut-off" if finish_reason == "length" else "no-answer")
    return Answer(reply.strip() if text is None else text, boxes, area)


def boxes_in(text: str) -> list[Box]:
    """Every list of four numbers in a text, as it stands."""
    return [
        (float(x1), float(y1), float(x2), float(y2))
        for x1, y1, x2, y2 in (match.groups() for match in _BOX.finditer(text))
    ]


def is_box(box: Box) -> bool:
    """Whether four numbers are a box inside the image, in 0..1."""
    x1, y1, x2, y2 = box
    return 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1


def options_in(question: str) -> tuple[tuple[str, str], ...]:
    """The options written in a question as "(A) left (B) right", in one line or several."""
    marks = list(re.finditer(r"\(([A-Z])\)", question))
    edges = [*(mark.start() for mark in marks), len(question)]
    found = []
    for mark, end in zip(marks, edges[1:], strict=True):
        text = question[mark.end() : end].strip()
        # The last one is followed by the instruction, on its own line or behind the full stop.
        text = re.split(r"\n|(?:^|[.?!]\s*|\s)(?:Please )?[Aa]nswer (?:with|directly|the)\b", text)[0]
        found.append((mark.group(1), text.strip()))
    return tuple(found)


def choice(text: str, options: Options) -> Reading:
    """The one option that a reply names, by its letter, its text or both; `value` is its index as a text.

    A letter and a text that disagree, or two options, are no choice. "The answer is ..." and "so ..." outrank
    what was weighed before; an option after "not" is not named.
    """
    clean = _RIGHT.sub("is correct", _clean(text))
    if not clean:
        return Reading(problem="empty")
    only = re.fullmatch(r"[\W_]*([A-Za-z])[\W_]*", clean)
    if only and options and options[0][0]:
        return _single({i for i, (letter, _) in enumerate(options) if letter == only.group(1).upper()})
    numbers = any(_fold(option, True).isdecimal() for _, option in options)
    same = {i for i, (_, option) in enumerate(options) if _fold(option, numbers) == _fold(clean, numbers)}
    if same and not _letters(clean, options, False):
        return _single(same)
    cues = [clean[cue.end() :] for cue in _ANSWER_CUE.finditer(clean)]
    clauses = [re.split(r"[.!?\n](?:\s|$)", rest.strip(), maxsplit=1)[0] for rest in cues]
    concluded = [r for r in (_named(clause, options, numbers, True) for clause in clauses) if r]
    if concluded:
        return _single(set().union(*concluded))
    *_, last = [None, *_THEREFORE.finditer(clean)]
    for part in [clean[last.end() :], clean] if last else [clean]:
        named = _named(part, options, numbers, False)
        if named:
            return _single(named)
    if _letters(clean, options, False) or _texts(clean, options, numbers):
        return Reading(problem="doubt" if _DOUBT.search(clean) else "contradictory")
    return Reading(problem="none-named")


def yes_no(text: str) -> Reading:
    """Reads "yes" or "no": the word itself, or, without either, a denial ("it is not")."""
    clean = _clean(text).lower()
    if not clean:
        return Reading(problem="empty")
    words = re.findall(r"[a-z']+", clean)
    said = {"yes" for word in words if word in ("yes", "yeah", "yep")}
    said |= {"no" for word in words if word in ("no", "nope")}
    cues = [clean[cue.end() :].strip(" :*\"'") for cue in _ANSWER_CUE.finditer(clean)]
    concluded = {found.group(1) for rest in cues if (found := re.match(r"(yes|no)\b", rest))}
    if len(concluded) == 1:
        return Reading(concluded.pop())
    if len(said) > 1 or re.search(r"(?:\bnot|n't)\b.*\byes\b", clean):
        return Reading(problem="contradictory")
    if said and (words[0] in ("yes", "yeah", "yep", "no", "nope") or not _DOUBT.search(clean)):
        return Reading(said.pop())
    if _DOUBT.search(clean):
        return Reading(problem="doubt")
    if "not" in words or any(word.endswith("n't") for word in words):
        return Reading("no")
    return Reading(problem="none-named")


def number(text: str) -> Reading:
    """The one number that a reply gives, in digits or in words to ninety-nine; "none" and "no" are 0."""
    clean = _clean(text)
    if not clean:
        return Reading(problem="empty")
    cues = [clean[cue.end() :] for cue in [*_ANSWER_CUE.finditer(clean), *_THEREFORE.finditer(clean)]]
    for part in [*(re.split(r"[.!?](?:\s|$)", rest.strip(), maxsplit=1)[0] for rest in cues), clean]:
        values = _numbers(part)
        if len(values) == 1:
            return Reading(f"{values.pop():g}")
    if _numbers(clean):
        return Reading(problem="several-named")
    if _DOUBT.search(clean):
        return Reading(problem="doubt")
    if re.search(r"\b(?:none|no|nothing)\b|n't any\b|\bnot any\b", clean.lower()):
        return Reading("0")
    return Reading(problem="none-named")


def _clean(text: str) -> str:
    """Without Markdown, LaTeX boxes and typographic variants."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'")
    text = re.sub(r"\\(?:boxed|text|mathrm)\{([^{}]*)\}", r"\1", text)
    return re.sub(r"[*`$\"_]|(?<!\w)'|'(?!\w)", "", text).strip()


def _fold(text: str, numbers: bool, separator: str = " ") -> str:
    """Lower-case words without articles; clause marks become `separator`; number words become digits on request."""
    text = re.sub(r"[.,;:!?](?=\s|$)", f" {separator} ", text.lower())
    words = re.sub(r"[^\w;'.%-]+", " ", text).split()
    if numbers:
        words = [str(_WORDS[word]) if word in _WORDS else word for word in words]
    return " ".join(word for word in words if word not in ("the", "a", "an"))


def _single(named: set[int]) -> Reading:
    if len(named) == 1:
        return Reading(str(named.pop()))
    return Reading(problem="several-named" if named else "none-named")


def _named(text: str, options: Options, numbers: bool, cued: bool) -> set[int]:
    """The options that a piece of text names; empty when letter and text disagree or the text is in doubt."""
    letters = _letters(text, options, cued)
    texts = _texts(text, options, numbers)
    if len(letters) == 1 and texts:
        return letters if letters <= texts else set()
    if letters:
        return letters
    return set() if _DOUBT.search(text) else texts


def _letters(text: str, options: Options, cued: bool) -> set[int]:
    """The options named by their letters. A capital A before a word is the article, unless marked as a letter."""
    patterns = [
        r"[(\[]([A-Za-z])[)\]]",  # (B) (b) [B]
        r"\b(?:[Oo]ption|[Cc]hoice|[Ll]etter)\s+([A-Za-z])\b(?!\s+[a-z])",  # option b
        r"(?<![\w'.])([A-Z])(?=[.):,;](?!\w)|\s*[-=:]\s|\s*$)",  # B. B) B: B - at the end
        r"(?<![\w'.])([B-HJ-Z])(?=\s)",  # B anywhere; A and I are words
        r"(?<![\w'.])(A)(?=\s+(?:and|or|is|because|since|seems|looks)\b)",
        r"^\(?([a-z])[).:](?=\s|$)",  # b) left
    ]
    if cued:
        patterns.append(r"^:?\s*([A-Za-z])(?=[\s.,:;)]*$)")  # (the answer is) b
    found = set()
    for pattern in patterns:
        for match in re.finditer(pattern, text):
            if not _denied(_fold(text[max(0, match.start() - 80) : match.start()], False, ";")):
                found.add(match.group(1).upper())
    return {i for i, (letter, _) in enumerate(options) if letter and letter in found}


def _texts(text: str, options: Options, numbers: bool) -> set[int]:
    """The options named by their texts, else by words that only one of them has ("black" of "the dog is black")."""
    folded = _fold(text, numbers, ";")
    contents = [_fold(option, numbers) for _, option in options]
    found: set[int] = set()
    for content in sorted(set(contents), key=len, reverse=True):
        if not content:
            continue
        pattern = r"(?<!\w)" + "[ ;]+".join(map(re.escape, content.split())) + r"(?![\w-])"
        for match in reversed(list(re.finditer(pattern, folded))):
            if not _denied(folded[: match.start()]):
                found |= {i for i, other in enumerate(contents) if other == content}
            # A longer option that was found must not be found again as a shorter one inside it.
            folded = folded[: match.start()] + "#" * len(match.group()) + folded[match.end() :]
    return found or _by_own_words(folded, contents)


def _by_own_words(folded: str, contents: Sequence[str]) -> set[int]:
    bags = [set(content.split()) - _FUNCTION_WORDS for content in contents]
    found = set()
    for index, bag in enumerate(bags):
        own = bag - set().union(*(other for i, other in enumerate(bags) if i != index))
        for word in own:
            for match in re.finditer(rf"(?<!\w){re.escape(word)}(?![\w-])", folded):
                if not _denied(folded[: match.start()]):
                    found.add(index)
    return found


def _denied(before: str) -> bool:
    """Whether what follows the folded text `before` is under its "not"; a few words back are enough to see it."""
    return bool(_NEGATED.search(before[-80:]))


def _numbers(text: str) -> set[float]:
    values = {float(match.group().replace(",", "")) for match in _NUMBER.finditer(text)}
    words: set[float] = set()
    tokens = re.findall(r"[a-z]+", text.lower())
    for before, word in zip(["", *tokens], tokens, strict=False):
        if word not in _WORDS:
            continue
        if before in _TENS and 0 < _WORDS[word] < 10:  # twenty-one
            words.discard(_WORDS[before])
            words.add(_WORDS[before] + _WORDS[word])
        else:
            words.add(_WORDS[word])
    if len(values | words) > 1:
        words.discard(1)  # "one" is a pronoun too: "three, one of them red"
    return values | words


def judged_choice(question: Question, answer: Answer) -> Verdict:
    """The strict verdict of a multiple-choice question whose reference is a letter."""
    read = Reading(problem=answer.absent) if answer.absent else choice(answer.text, question.options)
    if read.problem:
        return Verdict(0.0, unparsable=read.problem)
    letter = question.options[int(read.value)][0]
    return Verdict(float(letter == question.reference), letter)


def judged_yes_no(question: Question, answer: Answer) -> Verdict:
    """The strict verdict of a question whose reference is "yes" or "no", in any case."""
    read = Reading(problem=answer.absent) if answer.absent else yes_no(answer.text)
    return Verdict(float(read.value == question.reference.lower()), read.value, read.problem)
