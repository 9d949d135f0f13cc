"""The one option that a reply chooses, by its letter, its text or both.

The reply is marked first: every option that it names becomes one character, of another range where it names the option
only to reject it ("so A is wrong", "not A", "unlike A"). A rejected option is never chosen. What is chosen is, in this
order, what the reply sets off as its answer, what it concludes ("the answer is B", "B is correct"), what it begins with
("B. The mug ..., so A is wrong"), what follows its last "therefore", and the only option that it names at all.
"""

from __future__ import annotations

import re

from sifthinker.evaluation.benchmarks import affirmation, asides, counts, option_texts
from sifthinker.evaluation.benchmarks.option_texts import Options, fold, numeric
from sifthinker.evaluation.benchmarks.wording import (
    CUE,
    DOUBT,
    NO_PICTURE,
    THEREFORE,
    Reading,
    clauses_after,
    clean,
    refusal,
    without_questions,
)

# An option is marked as the character of one of these ranges plus its index.
_LETTER, _TEXT, _REJECTED = 0xE000, 0xE400, 0xE800
_L, _T, _X = "[\ue000-\ue3ff]", "[\ue400-\ue7ff]", "[\ue800-\uebff]"
_M = asides.NAMED
_UNIT = rf"(?:{_L}[\s).:\]\[(,-]*{_T}|{_T}[\s(\[]*{_L}|{_M})[)\]]?"
_ALSO = r"(?:(?:the|an?|options?|choices?|letters?|both)\s+)*[(\[]?"
_MANY = rf"{_UNIT}(?:(?:\s*,\s*{_ALSO}{_UNIT})*\s*,?\s*(?:\b(?:and|or|nor)\b|[/&|]|和|或|与|及|、)\s*{_ALSO}{_UNIT})*"

_HAN = "[\u4e00-\u9fff]"
_AFTER_A = r"""and|or|nor|is|are|was|because|since|as|seems|looks|can|could|would|should|must|does|do|did|has|which|where|shows|
    describes|states|says|suggests|matches|fits|contradicts|instead|rather|but|while|if|than|when|over""".replace(
    "\n", ""
)
_AFTER_A = re.sub(r"\s+", "", _AFTER_A)
# A capital A (or I) before a word is the article (or the pronoun), unless it is marked as a letter.
_LETTERS = [
    re.compile(pattern, re.M)
    for pattern in (
        r"[(\[]([A-Za-z])[)\]]",  # (B) (b) [B]
        r"\b(?:[Oo]ptions?|[Cc]hoices?|[Ll]etters?|OPTION|CHOICE)\s+([A-Za-z])\b(?!\s+[a-z])",  # option b
        r"(?<![A-Za-z0-9'.°])([A-Z])(?=[.):,;\]/|&+](?![A-Za-z0-9])|\s*[-=:]\s|\s*$|[/|&+][A-Z]\b)",  # B. B) B: B - B/C, at the end
        rf"(?<![A-Za-z0-9'.°&-])([B-HJ-Z])(?=\s|[{chr(0xE000)}-{chr(0xEBFF)}])",  # B anywhere
        rf"(?<![A-Za-z0-9'.])([A-Z])(?={_HAN})|(?<={_HAN})([A-Z])(?![A-Za-z0-9'])",  # beside a Chinese character
        rf"(?<![A-Za-z0-9'.])(A)(?=\s+(?:{_AFTER_A})\b)",
        r"^\W*([A-Z])[.:)](?=\w\w)",  # B.right
        r"^\(?([a-z])[).:](?=\s|$)",  # b) left
    )
]
_CUED = re.compile(r"^:?\s*([A-Za-z])(?=[\s.,:;)]*$)")  # (the answer is) b
_ANY_OF = re.compile(
    r"\b(none|neither|both|all|either|any|some|one|two)\s+of\s+(?:the\s+)?(?:above|options?|choices?|answers?|these|those|"
    r"them|given\s+\w+|listed\s+\w+|provided\s+\w+|statements?|two|three|four)(?:\s+(?:options?|choices?|answers?|above|given|listed))?"
    r"|\b(all|both)\s+(?:the\s+)?(?:options|choices|answers)\b",
    re.I,
)

_WRONG = (
    r"(?:wrong|incorrect|false|inaccurate|untrue|invalid|impossible|excluded|eliminated|ruled out|rejected|discarded|dismissed|"
    r"unlikely|less (?:likely|plausible)|(?:bad|poor) (?:answer|choice|option|fit|match)|distractor|implausible|inconsistent|mistaken|irrelevant|out|off the table|contradicted|not (?:correct|right|true|accurate|"
    r"possible|valid|supported|the (?:answer|case|right|correct)))"
)
_IS = (
    r"(?:is|are|was|were|be|being|seems?|looks?|appears?|becomes?|can|could|would|should|must|may|do|does|did|has|have|will)"
    r"(?: (?:clearly|obviously|definitely|also|both|all|then|thus|therefore|simply|just|probably|certainly|easily|safely|now|"
    r"to be|been|be|completely|immediately))*"
)
_REJECTED_AFTER = re.compile(
    rf"({_MANY})[)\]]?(?:[^\S\n]*[(:,-]?[^\S\n]*(?:(?:which|that) )?(?:(?:as|being|to be) )?{_WRONG}\b"
    rf"|(?:(?!\b(?:but|and|while|so|because|since|or|not)\b)[^.,;!?\n\ue000-\uebff]){{0,30}}?\b{_IS} (?:(?:the |an? )?{_WRONG}\b|not\b(?! (?:only|just|wrong|incorrect|false)\b))"
    r"|[^.;!?\n\ue000-\uebff]{0,20}?\bwould (?:be|have|look|need|feel)\b(?! (?:the |my )?(?:\w+ )?(?:correct|right|best|true|answer|choice|pick))"
    rf"|[^.;!?\n\ue000-\uebff]{{0,20}}?\b(?:contradicts|fails|misses|misstates|cannot be|can not be)\b"
    r"|(?:选项|项|明显|显然|都|均|也|则|是)*(?:错误|错的|错|不对|不正确|不符合?|可以排除|被排除|排除|不成立|不是|有误|不选))",
    re.I,
)
_WORDS_TO = r"(?:(?!(?:but|only|just|so|because|sure|certain|therefore|clear|if|whether|and|or|yet|know|think)\b)\w+[\s(]+){0,4}?"
_REJECTED_BEFORE = re.compile(
    r"(?:(?<!if )(?<!\bbe )(?<!\bis )(?<!\bare )(?<!been )(?<!was )(?<!were )\b(?:exclud\w+|eliminat\w+|rul(?:e|es|ed|ing) out|"
    r"reject\w*|discard\w*|dismiss\w*)\s+"
    + _WORDS_TO
    + r"[(\[]*|\bover\s+(?:options?\s+)?[(\[]*(?="
    + _L
    + r")|(?<!if )\b(?:not|never|nor|neither|rather than|instead of|unlike|except(?: for)?|"
    r"as opposed to|other than|(?:anything|everything|all|any(?: (?:answer|option|choice))?) but|not (?:think|believe|suppose)|"
    r"(?<!no )(?<!without )(?<!a )(?<!any )(?<!not )(?<!little )(?<!beyond )(?<!reasonable )doubt|(?:(?:wrong|incorrect)(?: (?:answers?|options?|choices?))?|"
    r"distractors?)(?: (?:is|are)|(?=:)))"
    r"[\s(:]+" + _WORDS_TO + r"[(\[]*"
    rf"|\bno (?:\w+ )?(?={_T})|\bnone of (?:options? )?[(\[]?"
    r"|(?:不是|不选|并非|非|排除|而非|而不是|不可能[是在选]|不应该?[是在选]|不能选|不属于|不在|没有?在|不位于|错误的?是)(?:选项)?\s*)"
    rf"({_MANY})",
    re.I,
)
_CORRECT = re.compile(
    rf"({_MANY})[)\].]*\s*(?:is|are|must be|should be|would be|seems|looks|appears)(?: (?:clearly|definitely|obviously|therefore|thus|to be|fully|entirely|completely|"
    r"most likely|probably|indeed))* (?:the )?(?:only |most |single )?(?:correct|true|accurate|best|appropriate|answer|proper|one that (?:fits|matches)|"
    r"right(?: (?:one|answer|choice|option))?)\b(?! (?:of|to|side|now)\b)|"
    rf"({_M})(?:选项|项)?(?:是|为)?(?:正确|对的|正确答案)",
    re.I,
)
_EXPLAINS = re.compile(
    r"\b(?:because|since|as|whereas|although|though|given that|due to|where|which|while|even though)\b|因为|由于|,(?=[^,]*\bfor\b)|(?<=\S) - ",
    re.I,
)
# The word "right" where it gives no direction.
_RIGHT = re.compile(r"\bis the right (?:one|answer|choice|option)\b", re.I)
_RIGHT_THERE = re.compile(
    r"\bright (?=(?:there|here|now|away|next|behind|in front|above|below|under|beside|on top)\b)"
    r"|\b(?:you are|that is) right(?=\s*[,:.!])",
    re.I,
)
_SECOND_THOUGHT = rf"\b(?:or|alternatively|maybe|perhaps|possibly|could also be|might|no|wait|actually|sorry|correction|on second thought)\b[^.!?\n]*{_M}"
_FILLERS = """the a an it its is are was were be there in on of to at by with and or that this than from for as has
have"""
_FUNCTION_WORDS = frozenset(_FILLERS.split())


def choice(reply: str, options: Options, asked: str = "") -> Reading:
    """The one option that a reply to the question `asked` chooses; `value` is its index as a text.

    A letter and a text that disagree, or two options that are not weighed against each other, are no choice.
    """
    wording, options = clean(reply), option_texts.as_said(options)
    final = {i for said in wording.finals for i in _chosen(said, options, True)}
    if final:
        return _single(final)
    text = without_questions(_RIGHT_THERE.sub("", _RIGHT.sub("is correct", wording.text)))
    if not text:
        return Reading(problem="none-named" if wording.finals else "empty")
    if (own := option_texts.quoted(text, options)) is not None:
        return Reading(str(own))
    if found := _alone(text, options):
        return found
    declined = refusal(text)
    if declined == NO_PICTURE:
        return Reading(problem=declined)
    marked = _marked(_without_sweeping(text, options), options)
    # What an option says is no refusal and no doubt of the reply.
    spoken = marked if option_texts.hedge(options) else text
    declined = refusal(spoken)
    marked = asides.without_compared(asides.without_concessions(marked), asked)
    if found := _by_kind(text, marked, options):
        return found
    if concluded := _concluded(marked, options):
        return _single(concluded)
    if leading := _leading(marked):
        return leading
    named = _weighed(marked)
    if named:
        texts_only = not re.search(_L, marked)
        return (
            Reading(problem=declined or "doubt")
            if texts_only and (declined or DOUBT.search(spoken))
            else _single(named)
        )
    if re.search(f"{_M}|{_X}", marked):
        return Reading(problem=declined or ("doubt" if DOUBT.search(spoken) else "contradictory"))
    swept = _ANY_OF.search(text)
    if swept and (swept.group(1) or swept.group(2)).lower() in ("both", "all"):
        return Reading(problem="several-named")
    return Reading(problem=declined or "none-named")


def _alone(text: str, options: Options) -> Reading | None:
    """A reply that is a letter, or an option's text, and nothing else."""
    only = re.fullmatch(r"[\W_]*([A-Za-z])[\W_]*", text)
    if only and options and options[0][0]:
        return _single({i for i, (letter, _) in enumerate(options) if letter == only.group(1).upper()})
    numbers = numeric(options)
    same = {i for i, (_, option) in enumerate(options) if fold(option, numbers) == fold(text, numbers)}
    return _single(same) if same and not re.search(_L, _mark_letters(text, options)) else None


def _by_kind(text: str, marked: str, options: Options) -> Reading | None:
    """Options that are all numbers, or yes and no, are read as such where no letter is named."""
    if re.search(f"{_L}", marked) or any(
        ord(mark) - _REJECTED in range(len(options)) and options[ord(mark) - _REJECTED][0] in text.split()
        for mark in re.findall(_X, marked)
    ):
        return None
    contents = [fold(option, True) for _, option in options]
    if contents and all(re.fullmatch(r"-?\d+(?:\.\d+)?", content) for content in contents):
        read = counts.number(text)
        values = [f"{float(content):.15g}" for content in contents]
    elif set(contents) == {"yes", "no"}:
        read, values = affirmation.yes_no(text), contents
    else:
        return None
    if read.problem:
        return read
    return _single({i for i, value in enumerate(values) if value == read.value})


def _chosen(clause: str, options: Options, cued: bool) -> set[int]:
    """The options that a short piece of text chooses."""
    only = re.fullmatch(r"[\W_]*([A-Za-z])[\W_]*", clause)
    if only and options and options[0][0]:
        return {i for i, (letter, _) in enumerate(options) if letter == only.group(1).upper()}
    marked = _marked(clause, options)
    return _agreed(marked)


def _concluded(marked: str, options: Options) -> set[int]:
    """What "the answer is ..." and "... is correct" say."""
    found: set[int] = set()
    for clause in clauses_after(CUE, marked):
        lower = _CUED.match(clause)
        if lower and not re.match(_M, clause):
            found |= {i for i, (letter, _) in enumerate(options) if letter == lower.group(1).upper()}
        found |= _agreed(_EXPLAINS.split(clause)[0])
    for match in _CORRECT.finditer(marked):
        if not re.search(r"\b(?:not|if|whether|neither)\W+(?:\w+\W+)?$", marked[: match.start()], re.I):
            found |= _agreed(match.group(1) or match.group(2))
    return found


def _leading(marked: str) -> Reading | None:
    """What a reply begins with, set off from what follows as its choice."""
    pair = rf"({_L})[)\].:,\s-]*({_T})|({_M})"
    start = re.match(
        rf"[\s(\[]*(?:(?:the )?(?:options?|choices?|answer|letter)\b[\s:(]*|选项?)?(?:{pair})", marked, re.I
    )
    if not start:
        return None
    letter, text, single = start.groups()
    chosen = _index(letter or single)
    if text and _index(text) != chosen:
        return Reading(problem="contradictory")
    rest = marked[start.end() :]
    ends = r"\s*(?:$|[.:,;!)\]\n]|- )|\s+(?:because|since|as|so|for|due|given|is)\b|[\s,]*(?:因为|由于)|" + (
        r"\s" if letter or re.match(_L, single or "") else "(?!)"
    )
    if not re.match(ends, rest):
        return None
    following = re.match(
        rf"[\s.,;:)\]/&|-]*(?:\b(?:and|or|nor|options?|choices?|the|an?)\b[\s(]*|和|或|、)*[\s(\[]*({_M})",
        rest,
    )
    if following and _index(following.group(1)) != chosen:
        same_kind = letter or re.match(_T, single or "") or re.match(_L, following.group(1))
        return None if same_kind else Reading(problem="contradictory")
    others = {_index(mark) for mark in re.findall(rf"^\W*({_L})(?:[.:)\]]|\s*{_T})", rest, re.M)} - {chosen}
    if others or _thinks_again(rest, chosen) or re.match(r"\s*(?:and|or|和|或)", rest):
        return None
    first = re.split(
        r"[.!?](?=\s)|\n|\b(?:because|since|as|so|explanation|reason|thus|therefore|though|although|but|while|whereas)\b|[。因]",
        rest.lstrip(" .:,;)]-"),
        maxsplit=1,
    )[0]
    spoken = {_index(mark) for mark in re.findall(_M, first)}
    if (
        spoken
        and chosen not in spoken
        and not re.match(
            r"\s*(?:[.:)]*\s*\n|[,.;:)\s]*(?:because|since|as|explanation|reason|so|though|although|but|while|whereas)\b)",
            rest,
            re.I,
        )
    ):
        return Reading(problem="contradictory")
    return Reading(str(chosen))


def _thinks_again(rest: str, chosen: int) -> bool:
    """Whether another option is considered after the first, as in "A. No, B."."""
    return any(
        {_index(mark) for mark in re.findall(_M, match.group())} - {chosen}
        for match in re.finditer(_SECOND_THOUGHT, rest, re.I)
    ) or any(
        _agreed(clause) - {chosen} and re.search(_L, clause) for clause in clauses_after(THEREFORE, rest)
    )


def _weighed(marked: str) -> set[int]:
    """What follows the last "therefore", else everything that is named and not rejected."""
    *_, last = [None, *THEREFORE.finditer(marked)]
    for part in [marked[last.end() :], marked] if last else [marked]:
        if found := _agreed(part):
            return found
    return set()


def _agreed(marked: str) -> set[int]:
    """The options that a marked text names and does not reject; none where letter and text disagree."""
    letters = {_index(mark) for mark in re.findall(_L, marked)}
    texts = {_index(mark) for mark in re.findall(_T, marked)}
    rejected = {_index(mark) for mark in re.findall(_X, marked)}
    if len(letters) == 1 and texts:
        texts -= rejected  # "A (left) is out, so we are left with B"
        return letters if letters <= texts or not texts else set()
    if len(letters) > 1:
        return letters - rejected or letters
    return letters or (texts - rejected or texts)


def _marked(text: str, options: Options) -> str:
    """The text with a mark for every option that it names."""
    for long in (True, False):
        text = _mark_texts(text, options, long)
        if long:
            text = _mark_letters(text, options)
    text = re.sub(rf"({_L})[.):\]]+\s+(?={_T})", r"\1 ", text)  # "B. right" is one
    if not re.search(f"{_L}|{_T}", text):
        text = _mark_own_words(text, options)
    text = _REJECTED_BEFORE.sub(_reject, text)
    return _REJECTED_AFTER.sub(_reject, text)


def _reject(match: re.Match[str]) -> str:
    listed = match.group(1)
    turned = "".join(chr(_REJECTED + _index(mark)) if re.match(_M, mark) else mark for mark in listed)
    start = match.start(1) - match.start()
    return match.group()[:start] + turned + match.group()[start + len(listed) :]


def _mark_letters(text: str, options: Options) -> str:
    places = {letter: chr(_LETTER + i) for i, (letter, _) in enumerate(options) if letter}
    found: dict[int, str] = {}
    for pattern in _LETTERS if places else ():
        for match in pattern.finditer(text):
            group = next(i for i, said in enumerate(match.groups(), 1) if said)
            if match.group(group).upper() in places:
                found[match.start(group)] = places[match.group(group).upper()]
    return "".join(found.get(place, mark) for place, mark in enumerate(text))


def _mark_texts(text: str, options: Options, long: bool) -> str:
    """Marks the options' texts, the longest first, so that none is found inside another."""
    numbers = numeric(options)
    contents = {fold(option, numbers): i for i, (_, option) in reversed(list(enumerate(options)))}
    for content in sorted(contents, key=len, reverse=True):
        han = re.search(_HAN, content)
        if not content or (len(content) > 1 if han else " " in content) is not long:
            continue
        words = [_spellings(word, numbers) for word in content.split()]
        pattern = r"[\s,;:-]+(?:(?:the|an?)\s+)?".join(words)
        if not han:
            pattern = rf"(?<![A-Za-z0-9])(?<!\d\.){pattern}(?![A-Za-z0-9]|-\w|\.\d)"
        text = re.sub(pattern, chr(_TEXT + contents[content]), text, flags=re.I)
    return text


def _spellings(word: str, numbers: bool) -> str:
    names = [name for name, value in counts.WORDS.items() if str(value) == word] if numbers else []
    return f"(?:{'|'.join([re.escape(word), *names])})"


def _mark_own_words(text: str, options: Options) -> str:
    """Marks words that only one option has: "black" of "the dog is black"."""
    numbers = numeric(options)
    bags = [set(fold(option, numbers).split()) - _FUNCTION_WORDS for _, option in options]
    for index, bag in enumerate(bags):
        for word in bag - set().union(*(other for i, other in enumerate(bags) if i != index)):
            pattern = rf"(?<![\w\ue000-\uebff]){_spellings(word, numbers)}(?![\w-])"
            text = re.sub(pattern, chr(_TEXT + index), text, flags=re.I)
    return text


def _without_sweeping(text: str, options: Options) -> str:
    """Without "none of the above" and the like, which name no option, unless one of the options says so."""
    if any(re.search(r"\b(?:none|neither|both|all|either|any)\b", option, re.I) for _, option in options):
        return text
    return _ANY_OF.sub(" ", text)


def _index(mark: str) -> int:
    return (ord(mark) - _LETTER) % (_TEXT - _LETTER)


def _single(named: set[int]) -> Reading:
    if len(named) == 1:
        return Reading(str(next(iter(named))))
    return Reading(problem="several-named" if named else "none-named")
