"""Yes or no, as a reply says it: the word itself, or a statement that affirms or denies what was asked.

Affirmation and denial are read alike. For every denial that is read ("It is not there", "There is no dog"), its mirror
is read as well ("It is there", "There is a dog").

Where the question is known, a statement counts only when it speaks of what was asked: "The cup is on the right" neither
affirms nor denies "Is the cup on the left?".
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sifthinker.evaluation.benchmarks.wording import (
    CUE,
    DOUBT,
    NO_PICTURE,
    Reading,
    clauses_after,
    clean,
    refusal,
    refused_at,
    without_questions,
)

_YES = "yes yeah yep yup y true t correct right indeed absolutely certainly definitely sure surely affirmative exactly"
_NO = "no nope nah n false f incorrect wrong negative never untrue"
_SURE = r"(?:absolutely|certainly|definitely|surely|of course|obviously|clearly|most certainly|probably|apparently|actually)"
_PLAIN = r"(?:yes|yeah|yep|yup|no|nope|nah)"
_DENIED = re.compile(
    rf"^(?:{_SURE} not|not (?:at all|really|exactly|quite|true|correct|right|in the least|that i can see|here|there|present|"
    r"visible|in (?:the|this) (?:image|picture|photo))|not|by no means|no way|i do not (?:think|believe) so|i disagree|"
    r"i (?:strongly |highly )?doubt (?:it|that|so)|it is not|unlikely)(?=\W*$|\s*[,.;:!\n]|\s*-)"
)
_AFFIRMED = re.compile(
    rf"^(?:of course|for sure|without (?:a |any )?doubt|(?:there is )?no doubt(?: about (?:it|that))?|undoubtedly|{_SURE} (?:yes|so)|very much so|that is right|"
    r"i (?:think|believe|guess|suppose) so|i agree|by all means|it is so|likely|probably|it is|absolutely)(?=\W*$|\s*[,.;:!\n]|\s*-)"
)
_WORD = dict.fromkeys(_YES.split(), "yes") | dict.fromkeys(_NO.split(), "no")
_NOT_A_REPLY = re.compile(
    r"^(?:sure|certainly|absolutely|of course)\W+(?:here|let|i (?:can|will|would)|please|what)\b"
)
_IDIOMS = re.compile(
    r"\b(?:there is )?(?:no|without (?:a|any)) (?:doubt|question)(?: that| about it| about that)?\b|\bnot (?:only|just|merely)\b|"
    r"\bno problem\b|\bno (?:other|one else)\b"
)
_NEGATORS_WORDS = """not no never neither nor without hardly barely absent missing lacks lack lacking false incorrect wrong untrue
    doubt unlikely disagree fails nowhere"""
_NEGATORS = frozenset(_NEGATORS_WORDS.split())
_GENERIC_WORDS = """a an the this that these those it its there here he she they them his her their i we you me my one some any all
    is are was were be been being am do does did have has had can could will would should shall may must seem seems appear
    appears look looks like as in of at to from with by for within into and or so too also indeed really actually clearly
    definitely certainly probably likely just very only even both each such what which who whose whom
    image images picture pictures photo photos photograph scene frame view shot visible see seen shown show shows showing
    depict depicts depicted present exist exists existing contain contains containing include includes included including
    find found spot spotted notice noticed observe observed feature features featured located
    think believe say guess suppose confirm confirmed claim statement case fact answer question
    true correct agree accurate yes no please word phrase single kind sort type least single anywhere
    evidence sign trace"""
_GENERIC = frozenset(_GENERIC_WORDS.split())
_VERBS_WORDS = """is are was were be am do does did has have had can could will would should shows show contains contain includes
    include exists exist appears appear seems looks see sees spot notice find observe features depicts"""
_VERBS = frozenset(_VERBS_WORDS.split())
_SEEING = re.compile(
    r"^(?:yes )?(?:i|we|you) (?:do|did|can|could|will|think|believe|would|agree|see|clearly|definitely|also|certainly|spot|notice|find|observe)\b"
)
_EMPTY_TALK = re.compile(r"^i see\W*$|^here (?:is|are) (?:a|the|my|your)\b|\bknow\b|\bunderstand\b")
_SPLIT = re.compile(
    r"(?<=[.!?;:\n])\s+|\n|[。!?;,](?=[\u4e00-\u9fff])|[。]|,?\s*\b(?:but|however|although|though|because|since|whereas|while|"
    r"so that|therefore|so|hence|thus)\b,?|,\s*(?=(?:not|no|only|which|who|and (?:there|it|the|i|they)|it|there|i)\b)| - "
)
_EXISTS = re.compile(
    r"^(?:is|are|was|were) there\b|^(?:can|do|could) (?:you|we|i) see\b|^does (?:the|this) \w+ (?:show|contain|have|include)\b"
)
# Of the picture as a whole: without the question, nobody knows whether it affirms anything.
_DESCRIPTION = re.compile(
    r"^the (?:image|picture|photo\w*|scene) (?:does not |do not )?(?:shows?|depicts?|features?)\b"
)
_WITHOUT_OTHER = re.compile(r"^\s*(?:if|whether|assuming|unless)\b")
_PREAMBLE = re.compile(
    r"^(?:(?:looking at|based on|judging by|according to|given|from|in|on) (?:the|this|your|what|my)\b[^,:.!?]*|well|ok|okay|hmm|so)\s*[,:]\s*"
)
_APART = 25  # characters between a yes and a refusal that is about something else
_SIDES = re.compile(r"\b(?:on|to|at|in) (?=(?:the|its|his|her) (?:\w+ )?(?:left|right|side|top|bottom)\b)")
_IRREGULAR = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "feet": "foot",
}

_HAN_YES = re.compile(
    r"^(?:是的?|对的?|没错|正确|有的?|在的?|会的?|能|可以|存在|当然是?|确实|肯定|看得到|能看到|真|可见)(?=$|[\s,。.!;、了啊呢吧])"
)
_HAN_NO = re.compile(
    r"^(?:不是的?|不对|不|否|没有|错误?的?|不正确|不在|不会|不能|不可以|不存在|并非|并不是|并没有|看不到|假|不可见|没|无)(?=$|[\s,。.!;、了啊呢吧])"
)
_HAN_CUE = re.compile(r"答案(?:是|为|:)\s*(是|对|正确|有|否|不是|错误?|不对|没有|不)")
_HAN_DENIAL = re.compile(r"没(?!错|问题)|不是|不在|不存在|看不到|并未|无任何|未见|未出现|不可见")
_HAN_STATEMENT = re.compile(r"有|是|存在|在|看到|可见|出现")


def yes_no(reply: str, question: str = "") -> Reading:
    """The yes or the no of a reply: `value` is "yes" or "no".

    Args:
        reply: as the model gave it.
        question: what was asked, where it is known.
    """
    wording = clean(reply)
    finals = {word for final in wording.finals if (word := _interjection(final.lower()))}
    if finals:
        return _one(finals)
    text = _PREAMBLE.sub("", wording.text.lower())
    if not text:
        return Reading(problem="none-named" if wording.finals else "empty")
    content, exists = _content(question), bool(_EXISTS.match(question.strip().lower()))
    declined = refusal(wording.text)
    if declined == NO_PICTURE:
        return Reading(problem=declined)
    concluded = {word for clause in clauses_after(CUE, text) if (word := _interjection(clause))}
    concluded |= {_han(word) for word in _HAN_CUE.findall(text)}
    if concluded:
        return _one(concluded)
    text = _IDIOMS.sub(" ", without_questions(text)) if not _AFFIRMED.match(text) else without_questions(text)
    said = _said(text)
    if said == {"yes", "no"}:
        return Reading(problem="contradictory")
    # "No, I cannot tell" declines; "Yes, although I cannot tell the breed" affirms.
    leading = _interjection(text)
    before = text[: refused_at(text)]
    if declined and not (
        leading and (len(before) > _APART or re.search(r"\b(?:though|although|but|however)\b", before))
    ):
        return _after_but(text, content, exists) or Reading(problem=declined)
    if said and (leading or not DOUBT.search(text)):
        return _confirmed(said, text, content, exists)
    if DOUBT.search(text):
        return _after_but(text, content, exists) or Reading(problem="doubt")
    stated = _statements(text, content, exists)
    return _one(stated) if stated else Reading(problem="none-named")


def _interjection(text: str) -> str:
    """What the first word or phrase of a text says when it stands for the whole reply, else ""."""
    text = text.lower().lstrip(" \n\t.,:;!-([")
    if _NOT_A_REPLY.match(text):
        return ""
    if re.match(r"[\u4e00-\u9fff]", text):
        return "yes" if _HAN_YES.match(text) else "no" if _HAN_NO.match(text) else ""
    if _AFFIRMED.match(text):
        return "yes"
    if _DENIED.match(text):
        return "no"
    word = re.match(r"[a-z]+", text)
    if not word or word.group() not in _WORD:
        return ""
    rest = text[word.end() :]
    stands = re.match(r"\W*$|\s*[.,;:!)\]\n]|\s*- |\s*-$", rest)
    if re.fullmatch(_PLAIN, word.group()):
        stands = stands or re.match(
            r"\s+(?:there|it|i|he|she|we|they|this|that|because|since|as|sir|indeed|both)\b", rest
        )
    return _WORD[word.group()] if stands else ""


def _said(text: str) -> set[str]:
    """Every yes and no that stands for itself in a text; "no" before a noun does not."""
    said = {found} if (found := _interjection(text)) else set()
    text = re.sub(r"\b(?:not|instead of|rather than) (?:yes|no)\b", " ", text)
    if re.search(r"\b(?:yes|yeah|yep|yup)\b", text):
        said.add("yes")
    if re.search(
        r"\b(?:no|nope|nah)\b(?=\W*$|\s*[.,;:!\n]| or\b| and\b)|\b(?:yes|say|and|or)\W+no\b(?! doubt)", text
    ):
        said.add("no")
    return said


def _confirmed(said: set[str], text: str, content: Sequence[str], exists: bool) -> Reading:
    """A yes or no, unless the rest of the reply states the contrary: "Yes, there is no dog"."""
    (value,) = said
    if value == "yes" and re.search(r"\bnot\b.*\byes\b", text):
        return Reading(problem="contradictory")
    rest = re.split(r"[,.;:!\n]| - ", text, maxsplit=1)[-1].lstrip() if _interjection(text) else ""
    if rest == text or re.search(r"[\u4e00-\u9fff]", rest):
        return Reading(value)
    stated = _statements(rest, content, exists)
    against = "no" if value == "yes" else "yes"
    if stated == {against} and (content or re.match(r"there (?:is|are) (?:no|not)\b|no\b", rest)):
        return Reading(problem="contradictory")
    return Reading(value)


def _after_but(text: str, content: Sequence[str], exists: bool) -> Reading | None:
    """The yes or no behind a "but": "I am not sure, but I think yes"."""
    *before, after = re.split(r"\bbut\b", text)
    said = (
        _said(re.sub(r"^\W*(?:i (?:would )?(?:think|say|believe|guess)|probably|most likely)\b", "", after))
        if before
        else set()
    )
    if before and not said:
        said = _statements(after.strip(), content, exists)
    return _one(said) if len(said) == 1 and not refusal(after) and not DOUBT.search(after) else None


def _statements(text: str, content: Sequence[str], exists: bool) -> set[str]:
    """What the clauses of a text affirm or deny of what was asked."""
    if chinese := " ".join(re.findall(r"[^\n。!?]*[\u4e00-\u9fff][^\n。!?]*", text)):
        if re.search(r"[\u3040-\u30ff]", chinese):  # Japanese, whose verbs are denied at their end
            return set()
        if re.search(r"有没有|是不是|是否", chinese) or not _HAN_STATEMENT.search(chinese):
            return {"no"} if _HAN_DENIAL.search(chinese) else set()
        return {"no" if _HAN_DENIAL.search(chinese) else "yes"}
    found = [_clause(clause, content, exists) for clause in _SPLIT.split(text) if clause]
    return {value for value in found if value}


def _clause(clause: str, content: Sequence[str], exists: bool) -> str:
    """What one clause says, "yes", "no" or "", by the parity of its negations."""
    words = re.findall(r"[a-z0-9']+", _SIDES.sub("", clause))
    negations = [i for i, word in enumerate(words) if word in _NEGATORS and _stem(word) not in content]
    if not words or _WITHOUT_OTHER.match(clause) or _EMPTY_TALK.search(clause):
        return ""
    if re.search(r"\bused to\b|\b(?:will|should|would|must) (?:not )?be\b", clause):
        return ""
    if words[0] == "i" and not _SEEING.match(" ".join(words)):
        return ""
    # "The man wears glasses" has no verb of the list, but all that was asked, and more.
    told = len(content) > 1 and set(content) <= {_stem(word) for word in words} and len(words) > len(content)
    told = told or (len(words) > 1 and words[-1] in ("present", "visible", "detected", "there", "found"))
    if len(negations) % 2 == 0 and not _VERBS & set(words) and not told:
        return ""
    if {"nothing", "none", "nobody"} & set(words) or (not content and _DESCRIPTION.match(clause)):
        return ""
    if content:
        negations_meant = _meant(words, negations, content, exists)
        if negations_meant is None:
            return ""
        negations = negations_meant
    return "no" if len(negations) % 2 else "yes"


def _meant(
    words: Sequence[str], negations: Sequence[int], content: Sequence[str], exists: bool
) -> list[int] | None:
    """The negations that fall on what was asked; None where a clause speaks of something else."""
    stems = [_stem(word) for word in words]
    spoken = [stem for word, stem in zip(words, stems, strict=True) if stem in content or _foreign(word)]
    foreign = [stem for stem in spoken if stem not in content]
    whole = set(content) <= set(spoken) if exists else _in_order(content, [s for s in spoken if s in content])
    if not whole and ((exists and spoken) or foreign or not _in_order(spoken, content)):
        return None
    if not foreign:
        return list(negations)
    first = min((i for i, stem in enumerate(stems) if stem in content), default=len(stems))
    last = max((i for i, stem in enumerate(stems) if stem in content), default=-1)
    meant = []
    for place in negations:
        strange = [i for i, word in enumerate(words) if stems[i] not in content and _foreign(word)]
        if place < (first if exists else last):
            if any(place < i < first for i in strange):
                return None  # "no brown dog" does not deny a dog
            meant.append(place)
        elif not any(i > place for i in strange):
            meant.append(place)
        elif not exists:
            return None
    return meant


def _foreign(word: str) -> bool:
    """Whether a word carries meaning of its own."""
    return word not in _GENERIC and word not in _NEGATORS


def _in_order(some: Sequence[str], of: Sequence[str]) -> bool:
    """Whether `some` is a subsequence of `of`."""
    rest = iter(of)
    return all(item in rest for item in some)


def _content(question: str) -> list[str]:
    """The words of a question that carry its meaning, without the instruction behind it."""
    asked = question.strip().split("\n")[0]
    asked = re.split(r"(?<=\?)", asked)[0].lower()
    words = re.findall(r"[a-z0-9']+", _SIDES.sub("", asked))
    return [_stem(word) for word in words if _foreign(word)]


def _stem(word: str) -> str:
    word = re.sub(r"'s$", "", _IRREGULAR.get(word, word))
    word = re.sub(r"(?<=[a-z]{3})(?:ing|ed|(?<=[sxz])es|(?<=[cs]h)es|(?<![su])s)$", "", word)
    return re.sub(r"(?<=[a-z]{2})e$|(?<=([bdgmnprt]))\1$", "", word)


def _han(word: str) -> str:
    return "yes" if word in ("是", "对", "正确", "有") else "no"


def _one(values: set[str]) -> Reading:
    return Reading(next(iter(values))) if len(values) == 1 else Reading(problem="contradictory")
