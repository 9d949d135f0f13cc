"""The one number that a reply gives: in digits, in words, or as the result of a sum.

A bound ("more than one", "10+"), a range or two numbers that could each be meant are no reading. Where the question is
known, the number before its noun counts ("3 cars and 2 trucks" says 3 to "How many cars?").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from sifthinker.evaluation.benchmarks.wording import (
    CUE,
    DOUBT,
    NO_PICTURE,
    THEREFORE,
    Reading,
    clauses_after,
    clean,
    refusal,
)

_NAMES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"""
WORDS = {name: i if i <= 20 else 10 * (i - 18) for i, name in enumerate(_NAMES.split())}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000, "dozen": 12}
_LARGEST = 1e9  # a run of scales beyond is babble
_HAN = {"零": 0, "〇": 0, "一": 1, "二": 2, "两": 2} | {
    mark: 3 + i for i, mark in enumerate("三四五六七八九")
}
_HAN_SCALES = {"十": 10, "百": 100, "千": 1000}
_MEASURE = "个只辆人张条位把本座棵架艘头匹朵块盏支瓶杯台件名种扇颗根双顶副幅层节栋间盘碗头群株"

_DIGITS = re.compile(r"(?<![A-Za-z0-9_.])-?\d+(?:,\d{3})*(?:\.\d+)?(?![A-Za-z0-9_])")
_WORD = "|".join(sorted([*WORDS, *_SCALES], key=len, reverse=True))
_SPELT = re.compile(
    rf"\b(?:(?:half )?an? (?=(?:{'|'.join(_SCALES)})\b))?(?:{_WORD})\b(?:(?:\s+and\s+|\s+|-)(?:{_WORD})\b)*",
    re.I,
)
_CHINESE = re.compile(
    rf"(?<![第每几多])[零〇一二两三四五六七八九十百千]+(?=[{_MEASURE}或、到至]|\s*(?:$|[。.,!;)]))"
)
_HAN_RANGE = re.compile("[一二两三四五六七八九]{2}$")
# "The second one" counts nothing.
_PRONOUN = re.compile(
    r"\b(?:the|this|that|which|each|every|other|another|first|second|third|fourth|last|left|right|\w+er|\w+est)\s+$",
    re.I,
)
_NOT_COUNTED = re.compile(
    r"\b(?:image|picture|figure|fig\.|photo|option|choice|step|question|no\.)\s*#?\d+\b", re.I
)
_LISTED = re.compile(r"^\s*(?:\d+[.)]|[-•])\s+(?=\D)", re.M)
_BOUND_BEFORE = re.compile(
    r"(?:\b(?:more|greater|less|fewer|other|rather|larger|higher|lower|better) than(?: just| only)?|\bover|\bunder|\babove|\bbelow|\bat (?:least|most)|"
    r"\bup to|\bminimum of|\bmaximum of|\bexceed(?:s|ing)?|\bupwards of|\balmost|\bnearly|\bclose to|\binstead of|\bnot|\bnot just|\bnot only|"
    r"不止|至少|至多|最多|超过|多于|少于|不到|近)\s*(?:an?\s+)?$",
    re.I,
)
_BOUND_AFTER = re.compile(
    r"^(?:\s*\+(?!\s*\d)|\s*%|\s*,?\s+(?:(?:or|and) (?:more|fewer|less|above|over|so)|at (?:least|most)|and an? (?:half|quarter))\b|\s*(?:个|只|人|辆)?(?:以上|以下|多))",
    re.I,
)
_RESULT = re.compile(
    r"=\s*|\b(?:makes?|equals?|gives?|(?:comes|adds up|sums up|amounts) to|(?:for |is |are |have |has |see |count )?a total of|"
    r"total(?:s|ing)?(?: (?:number|count))?(?: of [\w ]+?)?(?: is|:)?|sum is|sum of|altogether,?|count is|(?:一共|总共|共)(?:有|是)?)\s*:?\s*"
    r"(?=-?\d|(?:" + _WORD + r"|an? (?:hundred|dozen|thousand))\b|[零〇一二两三四五六七八九十百千])",
    re.I,
)
_COUNTING = re.compile(
    r"^[\s,:]*(?:(?:there|it|that|this|the|total|number|count|answer|sum|result|i|we|you|they|altogether|in all|overall|of|is|"
    r"are|was|were|be|makes?|gives?|equals?|see|have|has|must|should|would|exactly|only|just|an?)[\s,:]+|一共|总共|共|有|是)*$",
    re.I,
)
_SECOND_THOUGHT = re.compile(
    r"\b(?:or|maybe|perhaps|possibly|could be|might be|no|actually|sorry|wait|correction|rather)\b|或|也可能",
    re.I,
)
_NONE = re.compile(
    r"^\W*none\b|\b(?:none|nothing|no one|nobody)\b|\bno\b(?!\W*$)(?![,.;:!])|\bnot (?:\w+ ){0,3}(?:any|a single)\b|没有|一个也没",
    re.I,
)
_VAGUE = re.compile(
    r"\b(?:dozens|hundreds|thousands|several|many|few|numerous|multiple|some|lots?|a number of)\b", re.I
)


class _Mention(NamedTuple):
    value: float
    start: int
    end: int
    word: str  # as it is written


def number(reply: str, question: str = "") -> Reading:
    """The one number that a reply gives; "none" and "no dogs" are 0.

    Args:
        reply: as the model gave it.
        question: what was asked, where it is known: "How many cars are there?"
    """
    wording = clean(reply)
    finals = [value for final in wording.finals for value in {m.value for m in _mentions(final)}]
    if finals:
        return _single(finals)
    text = wording.text
    if not text:
        return Reading(problem="none-named" if wording.finals else "empty")
    declined = refusal(text)
    if declined == NO_PICTURE:
        return Reading(problem=declined)
    text = _unlisted(_NOT_COUNTED.sub(" ", re.sub(r"\bno one\b", "nobody", text, flags=re.I)))
    concluded = _concluded(text)
    if concluded:
        return _single(concluded)
    if declined or DOUBT.search(text):
        *_, after = re.split(r"\bbut\b", text)
        if after != text and not refusal(after) and len(values := _exact(after)) == 1:
            return _single(values)
        if declined or _leading(text) is None:
            several = len(set(_exact(text))) > 1
            return Reading(problem=declined or ("several-named" if several else "doubt"))
    return _stated(text, question)


def _stated(text: str, question: str) -> Reading:
    """The number of a text without a conclusion: the first where it stands alone, the asked one, or the only one."""
    values = _exact(text)
    if _of_a_part(text, question):
        return Reading(problem="several-named")
    leading = _leading(text)
    if leading is not None:
        return _single([leading])
    if _mentions(text) and (asked := _of_noun(text, question)):
        return _single(asked)
    if len(set(values)) > 1 and (whole := _broken_down(text)) is not None:
        return _single([whole])
    if values:
        several = _several_of_one(text) or re.search(r"\b(?:none|no) or\b", text, re.I)
        return Reading(problem="several-named") if several else _single(values)
    if _mentions(text):
        return Reading(problem="inexact")
    if _NONE.search(text) and not _VAGUE.search(text):
        return Reading("0")
    if re.search(r"\bsingle\b", text, re.I):
        return Reading("1")
    return Reading(problem="none-named")


def _concluded(text: str) -> list[float]:
    """The numbers of "the answer is 4", "2 + 3 = 5" and "so there are 5"; of several sums or "so" the last."""
    for pattern in (CUE, _RESULT, THEREFORE):
        clauses = clauses_after(pattern, text)
        found = [v for clause in clauses if len(v := list(dict.fromkeys(_counted(clause, pattern)))) == 1]
        if found:
            return [value for values in (found if pattern is CUE else found[-1:]) for value in values]
    return []


def _counted(clause: str, pattern: re.Pattern[str]) -> list[float]:
    mentions = _mentions(clause)
    exact = [m for m in mentions if not _bounded(clause, m)]
    if pattern is CUE:
        return _values(exact, clause)
    first = mentions[:1]
    if not first or first[0] not in exact or not _COUNTING.match(clause[: first[0].start]):
        return []
    if pattern is _RESULT and re.match(r"\s*[-+*/x]\s*\d", clause[first[0].end :]):
        return []  # a sum, not its result
    return [first[0].value]


def _leading(text: str) -> float | None:
    """The number that a reply begins with, set off from what follows: "3. Two on the left, one on the right."."""
    mentions = _mentions(text)
    if not mentions or text[: mentions[0].start].strip(" (\n") or _bounded(text, mentions[0]):
        return None
    rest = text[mentions[0].end :]
    if not re.match(r"\s*(?:$|[.!;:,\n(]|- |\)|(?:because|since|as)\b)", rest):
        return None
    if re.match(r"[\s.!;:,(-]*\d", rest) and not re.match(r"\s*\(", rest):
        return None
    for second in _mentions(rest)[:1]:  # "3, 4" and "3 (4)" are two
        alone = re.match(r"\s*[,(-]?\s*$", rest[: second.start]) and re.match(
            r"\s*(?:$|[.,;!)])", rest[second.end :]
        )
        if alone and second.value != mentions[0].value:
            return None
    return None if _SECOND_THOUGHT.search(rest) else mentions[0].value


def _of_noun(text: str, question: str) -> list[float]:
    """The numbers that stand before the noun that "How many" asks for."""
    asked = re.search(
        r"how many ([\w' -]+?)(?: (?:are|is|do|does|can|were|have|has|in|on|with|that)\b|\?|$)",
        question,
        re.I,
    )
    if not asked:
        return []
    wanted = {_singular(word) for word in re.findall(r"[a-z]+", asked.group(1).lower())}
    found = [
        0.0
        for none in re.finditer(r"\b(?:no|not any) ((?:[a-z]+ ?){1,3})", text.lower())
        if wanted <= {_singular(word) for word in none.group(1).split()}
    ]
    for mention in _mentions(text):
        phrase = re.split(
            r"[.,;:!?()\n]|\b(?:and|or|but|with|on|in|is|are)\b", text[mention.end :], maxsplit=1
        )[0]
        if wanted <= {_singular(word) for word in re.findall(r"[a-z]+", phrase.lower())[:5]}:
            if _bounded(text, mention):
                return []
            found.append(mention.value)
    return found


def _of_a_part(text: str, question: str) -> bool:
    """Whether what is asked is counted among others: "5 people, one of them wears a hat" to "How many people wear hats?"."""
    part = re.search(r"\bof (?:them|these|those|which|whom)\b([^.;!?\n]*)", text.lower())
    asked = re.search(r"how many \w+(.*)", question.lower())
    if not part or not asked or not _mentions(text[: part.start()])[1:]:
        return False
    stems = {_stem(word) for word in re.findall(r"[a-z]{4,}", asked.group(1))} - {
        "there",
        "image",
        "pictur",
        "photo",
    }
    return bool(stems & {_stem(word) for word in re.findall(r"[a-z]{4,}", part.group(1))})


def _stem(word: str) -> str:
    return re.sub(r"(?:ing|es|s|e)$", "", word)


def _broken_down(text: str) -> float | None:
    """A total that is followed by its parts: "3 people: 2 men and 1 woman"."""
    for total, *parts in [
        _mentions(sentence) for sentence in re.split(r"[.!?](?:\s|$)|\n", text) if _mentions(sentence)
    ]:
        between = text[total.end : parts[0].start] if parts else ""
        if re.search(r"[:(-]|including|namely", between) and sum(part.value for part in parts) == total.value:
            return total.value
    return None


def _several_of_one(text: str) -> bool:
    """Whether the same number is given of several things: "two on the left and two on the right"."""
    for sentence in re.split(r"[.!?](?:\s|$)|\n", text):
        mentions = _mentions(sentence)
        for first, second in pairwise(mentions):
            if re.search(r"\b(?:and|plus|another)\b|,", sentence[first.end : second.start]):
                return True
        if mentions and re.search(r"\banother\b|\bthe other\b|\bone more\b", sentence[mentions[-1].end :]):
            return True
    return False


def _exact(text: str) -> list[float]:
    return _values([mention for mention in _mentions(text) if not _bounded(text, mention)], text)


def _values(mentions: Sequence[_Mention], text: str) -> list[float]:
    """Their values; "one" is a pronoun beside another number ("three, one of them red"), but not in "one or two"."""
    joined = {
        mention.start
        for first, second in pairwise(mentions)
        if re.fullmatch(r"\s*(?:or|to|and|-|/|~)\s*", text[first.end : second.start])
        for mention in (first, second)
    }
    others = [m.value for m in mentions if m.word.lower() != "one" or m.start in joined]
    return others or [m.value for m in mentions]


def _bounded(text: str, mention: _Mention) -> bool:
    before, after = text[max(0, mention.start - 30) : mention.start], text[mention.end :]
    return bool(_BOUND_BEFORE.search(before) or _BOUND_AFTER.match(after))


def _mentions(text: str) -> list[_Mention]:
    """The numbers of a text, in its order."""
    found = [
        _Mention(float(m.group().replace(",", "")), m.start(), m.end(), m.group())
        for m in _DIGITS.finditer(text)
    ]
    for match in _SPELT.finditer(text):
        found += _spelt(match)
    for match in _CHINESE.finditer(text):
        # Two digits in a row are a range: "两三个" is two or three.
        parts = (
            [_han(match.group())]
            if not _HAN_RANGE.search(match.group())
            else [_HAN[mark] for mark in match.group()[-2:]]
        )
        found += [_Mention(float(part), match.start(), match.end(), match.group()) for part in parts]
    return sorted(
        (m for m in found if m.word.lower() != "one" or not _PRONOUN.search(text[: m.start])),
        key=lambda mention: mention.start,
    )


def _spelt(match: re.Match[str]) -> list[_Mention]:
    """The numbers of a run of number words: "one hundred and twenty" is one, "two three" are two."""
    words = list(re.finditer(r"[a-z]+", match.group().lower()))
    found: list[_Mention] = []
    total, current, start, end, joined = 0.0, None, 0, 0, False

    def close() -> None:
        nonlocal total, current
        if current is not None or total:
            value = total + (current or 0)
            text = match.group()[start:end]
            found.append(_Mention(value, match.start() + start, match.start() + end, text))
        total, current = 0.0, None

    for word in words:
        name = word.group()
        if name in ("a", "an", "half"):
            current, start = (0.5 if name == "half" else current or 1.0), (start if current else word.start())
        elif name == "and":
            joined = True
            continue
        elif name in _SCALES:
            scale = _SCALES[name]
            if total + (current or 1) > _LARGEST:
                close()
            if current is None and not total:
                start = word.start()
            if scale == 1000 or scale == 1_000_000:
                total, current = (total + (current or 1)) * scale, None
            else:
                current = (current or 1) * scale
            end = word.end()
        else:
            value = float(WORDS[name])
            fits = bool(total) if current is None else _extends(current, value, joined)
            if (current is not None or total) and not fits:
                close()
            if current is None and not total:
                start = word.start()
            current = (current or 0) + value
            end = word.end()
        joined = False
    close()
    return found


def _extends(current: float, value: float, joined: bool) -> bool:
    """Whether a number word goes on with the number before it: "hundred (and) twenty", "twenty-one", not "two three"."""
    if current >= 100 and current % 100 == 0:
        return value < 100
    return current % 10 == 0 and current % 100 >= 20 and 0 < value < 10 and not joined


def _han(written: str) -> int:
    total, digit = 0, None
    for mark in written:
        if mark in _HAN_SCALES:
            total += (1 if digit is None else digit) * _HAN_SCALES[mark]
            digit = None
        else:
            digit = _HAN[mark]
    return total + (digit or 0)


def _unlisted(text: str) -> str:
    """Without the numbers of a list's lines, which count nothing."""
    return _LISTED.sub(" ", text) if len(_LISTED.findall(text)) > 1 else text


def _singular(word: str) -> str:
    irregular = {"people": "person", "men": "man", "women": "woman", "children": "child", "buses": "bus"}
    return irregular.get(word) or re.sub(r"(?<=[a-z]{2})s$", "", re.sub(r"ies$", "y", word))


def _single(values: Sequence[float]) -> Reading:
    return Reading(f"{values[0]:.15g}") if len(set(values)) == 1 else Reading(problem="several-named")
