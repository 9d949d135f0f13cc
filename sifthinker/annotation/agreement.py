"""Whether two answers say the same: exactly for numbers and for yes or no, and where only a judge can tell.

`agrees` says no more than a text shows by itself. "There are two dogs next to one car" may or may not say "two": that
depends on the question, which a judge sees. So each verdict wants one number, or one yes or no, and nothing beside it that
could turn its meaning.
"""

from __future__ import annotations

import re
import unicodedata


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DIGITS = re.compile(r"-?\d+(?:\.\d+)?")
_LETTERS = re.compile(r"[^\W\d_]+")
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
_NUMBERS = {word: float(value) for value, word in enumerate(_NUMBER_WORDS.split())}

# A number that stands alone: "1,000" is one; "3rd", "mp3", "2-story" and "1.5.2" hold none.
_ALONE = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?(?!\w|[.,]\d|-[^\W\d])")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_N = rf"(?:{_ALONE.pattern}|\b(?:{'|'.join(_NUMBERS)})\b)"
_RANGE = re.compile(rf"({_N})\s*(?:\bor\b|\bto\b|[-–—])\s*({_N})")
_BOUND = re.compile(
    rf"\b(?:than|least|most|over|under|above|below|about|around|roughly|approximately|almost|nearly|exceeds?|up to|"
    rf"between|another|other)\s+(?:an? |the |just |only )?{_N}"
    rf"|{_N}(?:\s*[+%]|\s+percent\b|,?\s+(?:or|and)\s+(?:more|less|fewer|so|above|over)\b|\s+(?:more|others?)\b)"
)
# "The one on the left", "no one" and "one of them" count nothing, or a part.
_PRONOUN = re.compile(
    r"\b(?:the|this|that|which|no|any|some|every|each|another|other|left|right|\w+er|\w+est)\s+one\b"
    r"|\bone\s+(?:of|can|could|may|might|would|sees?|should)\b"
)
_NEGATION = _words("not cannot never none nothing nobody neither nor without hardly no-one nowhere nope")
_DOUBT = _words("maybe perhaps possibly might may unsure unclear uncertain either depends")
# Parts and multiples of a number that are not worked out here.
_COUNTS = _words(
    "hundred hundreds thousand thousands million millions dozen dozens thirty forty fifty sixty seventy eighty ninety "
    "half quarter third each every per pair pairs times twice double triple"
)
# Numbers that a text may give without naming them: "a dog and 2 cats" are three animals, "both" are two.
_UNNAMED = _words("a an no both couple single once only all few several many plus more")
_UNITS = _words(
    "mm cm m km metre metres meter meters centimetre centimetres centimeter centimeters kilometre kilometres kilometer "
    "kilometers inch inches foot feet ft yard yards mile miles g kg gram grams kilogram kilograms pound pounds lb lbs ounce "
    "ounces ton tons ml l litre litres liter liters second seconds minute minutes hour hours day days week weeks month "
    "months year years am pm dollar dollars cent cents euro euros degree degrees"
)
# "No" that stands for itself; not "no dog", "no doubt" and "No. 5".
_NO = re.compile(
    r"(?<![\w-])no(?![\w-])(?!\s*\.\s*\d)"
    r"(?=\W*$|\s*[.,;:!?)\"'—–]|\s+-|\s+(?:it|there|this|that|he|she|they|because|since)\b)"
)
_YES_AND_NO = re.compile(r"\byes\W+(?:(?:and|or)\W+)?no\b(?=\W*$)|\bno\W+(?:and|or)\W+yes\b")


def agrees(reference: str, answer: str) -> bool | None:
    """Whether an answer says what the reference says; None where only a judge can tell.

    True and False are for equal texts, and for references that are a number or yes or no: of such an answer, its only
    number ("There are 3.", "three") or its only yes or no counts.
    """
    reference, answer = plain(reference), plain(answer)
    if reference == answer:
        return True
    if reference in ("yes", "no"):
        return _same_word(reference, answer)
    wanted = _wanted(reference)
    return _same_number(wanted, answer) if wanted is not None else None


def only_says(reference: str, answer: str) -> bool:
    """Whether an answer says the reference by the rule of the benchmark `sif`; what is unclear does not.

    It takes the only number of an answer whatever stands around it, and asks no judge. Scores of two versions of this rule do not
    compare, so a change raises `benchmarks.question.RULES`.
    """
    reference, answer = plain(reference), plain(answer)
    if reference == answer:
        return True
    if reference in ("yes", "no"):
        return {"yes", "no"} & set(_LETTERS.findall(answer)) == {reference}
    wanted = _wanted(reference)
    if wanted is None:
        return False
    digits = {float(number) for number in _DIGITS.findall(answer)}
    return (digits or {_NUMBERS[word] for word in _LETTERS.findall(answer) if word in _NUMBERS}) == {wanted}


def names(reference: str, answer: str) -> bool | None:
    """Whether an answer holds the number, the yes or the no that the reference is; None where that is none of them."""
    reference, answer = plain(reference), plain(answer)
    if reference in ("yes", "no"):
        return reference in _LETTERS.findall(answer)
    wanted = _wanted(reference)
    return wanted in _numbers(answer) if wanted is not None else None


def plain(text: str) -> str:
    """A text without its case, white space, and punctuation at the ends."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(" .,;:!?\"'`()")


def _wanted(reference: str) -> float | None:
    """The number that a reference is."""
    return float(reference) if _DIGITS.fullmatch(reference) else _NUMBERS.get(reference)


def _same_word(reference: str, answer: str) -> bool | None:
    words = set(_WORD.findall(answer))
    if _YES_AND_NO.search(answer):
        return False
    if words & _DOUBT:
        return None
    if _NO.search(answer):  # "No, it is not" denies once
        return None if "yes" in words else reference == "no"
    if "yes" in words and "no" not in words and not _negated(words):
        return reference == "yes"
    return None


def _same_number(wanted: float, answer: str) -> bool | None:
    if any(wanted in map(_value, pair.groups()) for pair in _RANGE.finditer(answer)):
        return False  # "3 or 4" is no answer
    words = set(_WORD.findall(answer))
    numbers = _numbers(answer)
    parts = {part for word in words for part in re.split(r"['’-]", word) if part != word}
    if (
        len(numbers) != 1
        or re.search(r"\d", _ALONE.sub(" ", answer))
        or parts & (_NUMBERS.keys() | _COUNTS)
        or words & (_COUNTS | _DOUBT)
        or _negated(words)
        or _BOUND.search(answer)
        or _PRONOUN.search(answer)
    ):
        return None
    if numbers == [wanted]:
        return True
    return None if words & (_UNNAMED | _UNITS) or "°" in answer else False


def _negated(words: set[str]) -> bool:
    return bool(words & _NEGATION) or any(word.endswith(("n't", "n’t")) for word in words)


def _numbers(text: str) -> list[float]:
    """The numbers of a text that stand alone, in digits and in words, each as often as it is there."""
    return [_value(found[0]) for found in re.finditer(_N, text)]


def _value(number: str) -> float:
    return _NUMBERS[number] if number in _NUMBERS else float(number.replace(",", ""))
