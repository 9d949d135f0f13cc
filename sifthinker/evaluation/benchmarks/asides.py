"""What a reply says beside the option that it chooses: concessions, and what the chosen option is compared with.

Texts are marked (`choices`): an option that they name is one character.
"""

from __future__ import annotations

import re

from sifthinker.evaluation.benchmarks.wording import CUE

NAMED = "[\ue000-\ue7ff]"  # an option that is named and not rejected
_NAMED_BY_TEXT = re.compile("[\ue400-\ue7ff]")
_SO = re.compile(r"\b(?:so|therefore|thus|hence|meaning|which (?:means|makes|leaves)|making|leaving)\b", re.I)
# Comparisons, each in every form that a question and its answers use for it; a pair of contraries stands together.
_WAYS = tuple(
    re.compile(rf"\b(?:{words})\b", re.I)
    for words in (
        "closer|nearer|closest|nearest",
        "farther|further|farthest|furthest|more distant|most distant",
        "larger|bigger|largest|biggest",
        "smaller|smallest",
        "taller|tallest",
        "shorter|shortest",
        "higher|highest",
        "lower|lowest",
    )
)


def without_concessions(marked: str) -> str:
    """Without "Although the lamp is left," and "D if it is flipped;" where other options are named."""
    for aside in (
        r"(?:^|(?<=[.!?]\s))(?:even )?(?:though|although|while|whereas)\b[^,.!?\n]*,",
        r"(?:^|(?<=[.;!?]\s))[^.;!?\n]*\bif\b[^.;!?\n]*[.;!?\n]",
    ):
        rest = re.sub(aside, " ", marked, flags=re.I)
        marked = rest if re.search(NAMED, rest) else marked
    return marked


def without_compared(marked: str, asked: str) -> str:
    """Without "than the chair" of "the lamp is closer than the chair", where the question is which one is closer.

    The same of "against" and "compared with", and of ", while the chair is farther away". What a sentence calls the contrary
    ("the chair is farther") is not chosen either, up to its "so". Sentences that compare in another way than the question
    does stay as they are: which option they choose would take more than words to tell.
    """
    ways = [index for index, way in enumerate(_WAYS) if way.search(asked)]
    if len(ways) != 1:
        return marked
    way, contrary = _WAYS[ways[0]], _WAYS[ways[0] ^ 1]
    return re.sub(
        r"(?:[^.!?\n]|\.(?=\d))+", lambda sentence: _chosen(sentence.group(), way, contrary), marked
    )


def _chosen(sentence: str, way: re.Pattern[str], contrary: re.Pattern[str]) -> str:
    denied = re.search(rf"\b(?:not|never|n't|less)\s+(?:the\s+)?(?:{way.pattern})", sentence, re.I)
    if (turned := contrary.search(sentence)) and (denied or not way.search(sentence)):
        so = _SO.search(sentence, turned.end())
        until = so.start() if so else len(sentence)
        if CUE.search(sentence) or len(set(_NAMED_BY_TEXT.findall(sentence[:until]))) != 1:
            return sentence
        return _NAMED_BY_TEXT.sub(" ", sentence[:until]) + sentence[until:]
    said = way.search(sentence)
    if not said or not re.search(NAMED, sentence[: said.start()]):
        return sentence  # "closer than the chair is the lamp"
    before, after = sentence[: said.end()], sentence[said.end() :]
    turn = re.search(r",?\s+\b(?:while|whereas|but)\b", after)
    if turn and not way.search(after[turn.end() :]):
        after = after[: turn.start()]
    return before + re.sub(
        r"\b(?:than|(?:as )?against|(?:as )?compared (?:to|with))\b[^,;]*", " ", after, flags=re.I
    )
