r"""The text of a reply without its dress, what it sets off as its answer, and whether it declines to answer.

Markdown, LaTeX, JSON, tags and typographic variants carry no meaning of their own: "**B**", "\boxed{\text{B}}" and
`{"answer": "B"}` say B. What stands in a box or under an `answer` key is set off from the reasoning around it.

A reply that declines ("I cannot tell", "Not enough information") is no answer, although it often holds the word "no".
`REFUSED` is its reason. `NO_PICTURE` is the reason of one that says that it sees no picture ("No image was provided"):
a server that loses its pictures gives these, so they are told apart.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from typing import Any, NamedTuple

from sifthinker.core import reasoning
from sifthinker.evaluation.benchmarks.question import REFUSALS

REFUSED, NO_PICTURE = REFUSALS


class Reading(NamedTuple):
    """What was read, or why nothing was."""

    value: str = ""
    # "empty", "none-named", "several-named", "contradictory", "doubt", "inexact", REFUSED or NO_PICTURE
    problem: str = ""


class Wording(NamedTuple):
    """A reply without its dress."""

    text: str  # the prose
    finals: tuple[str, ...] = ()  # what is set off as the answer: in a box, or under an answer's key of JSON


_KEY_NAMES = """answer finalanswer correctanswer correctoption correctchoice choice option letter label prediction result
    count number value response output selected selectedoption selectedanswer conclusion 答案 选项"""
_KEYS = frozenset(_KEY_NAMES.split())
_STYLES = r"\\(?:text|textbf|textit|textrm|texttt|textsf|mathrm|mathbf|mathit|mathsf|emph|underline|bf|rm|operatorname)"
_BOXED = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_STYLED = re.compile(_STYLES + r"\s*\{([^{}]*)\}")
_LONGEST, _BEGINNING = 3000, 600  # characters of a reply that are read; of these, at its beginning
_DEEPEST = 5  # styles inside styles
_FENCE = re.compile(r"```[a-zA-Z]*[ \t]*\n?|```")
_OBJECT = re.compile(r"\{[^{}]*\}")
_TAGS = re.compile(
    r"</?(?:think|answer|text|b|i|em|strong|p|s|br|ref|box|span|div)\s*/?>|<\|[a-z_]+\|>", re.I
)
_WRONG_LINE = re.compile(r"^[^\n\w]*[❌✗✘✖][^\n]*$", re.M)


_SIMPLIFIED = str.maketrans(
    "沒無對錯選項圖確會見現發認為這應該屬並從來說斷當實際題個還僅後間於與裡邊側處識別顯標據給請傳變視",
    "没无对错选项图确会见现发认为这应该属并从来说断当实际题个还仅后间于与里边侧处识别显标据给请传变视",
)

_CONTRACTIONS = [
    (re.compile(pattern, re.I), full)
    for pattern, full in (
        (r"\bcan(?:not|'t)\b", "can not"),
        (r"\bwon't\b", "will not"),
        (r"\bain't\b", "is not"),
        (r"(?<=\w)n't\b", " not"),
        (r"\b(it|that|there|he|she|what|here)'s\b", r"\1 is"),
        (r"\bI'm\b", "I am"),
        (r"\b(they|we|you)'re\b", r"\1 are"),
        (r"\b(I|they|we|you)'ve\b", r"\1 have"),
        (r"\b(I|they|we|you|it)'d\b", r"\1 would"),
        (r"\b(I|they|we|you|it)'ll\b", r"\1 will"),
    )
]

_NOUN = r"(?:images?|pictures?|photos?|photographs?|attachments?|figures?|screenshots?|visuals?|visual (?:input|content))"
_GIVEN = (
    r"(?:provided|attached|uploaded|given|shared|included|supplied|available|sent|received|loaded|found|"
    r"detected|visible|accompanying|to (?:analy[sz]e|look at|view|see|examine|refer to|base))"
)
_HERE = r"(?:in|with|to) (?:your|this|the|our|my|me) ?(?:message|conversation|chat|prompt|request|question|query|input|end)?"
# A picture on the wall is no picture that the model was to see.
_OF_THE_SCENE = (
    r"(?! ?(?:frames?\b|of\b|on\b|hanging\b|behind\b|above\b|showing\b|clearly\b|well\b|in (?:the|this) "
    r"(?:image|picture|photo|room|scene|background)))"
)
_UNABLE = (
    r"(?:(?:can|could|do|did|does|am|was|is|are|will) not(?: be)?(?: able to| capable of| have (?:the )?(?:ability|"
    r"capability|access|means) to)?|unable to|no (?:ability|way) to|lack the ability to|incapable of)"
)
_VIEW = (
    r"(?:see|seeing|view|viewing|access|open|process|processing|analy[sz]e|analy[sz]ing|display|perceive|examine|interpret|"
    r"look at|load|read|inspect|have access to|have|receive|get)"
)
_NO_PICTURE = re.compile(
    "|".join(
        (
            rf"\bno {_NOUN}(?: (?:was|were|is|are|has|have|had|been|got|to be|appears|seems|actually|currently))* ?"
            rf"(?:{_GIVEN}|{_HERE})",
            r"^\W*no (?:image|picture|photo)s?(?: here)?\W*$",
            rf"\bI (?:see|have|got|received) no {_NOUN}(?=\W*$|[.,;!])",
            rf"^\W*{_NOUN} (?:is |was )?(?:missing|unavailable|not (?:found|available|provided|attached|loaded))\W*$",
            rf"\bthere (?:is|was|are|were|does|do) (?:no|not (?:(?:appear|seem)(?: to be)? )?(?:an?|any)) (?:image\b(?= ?(?:[.,;!]|$))|{_NOUN} (?:{_GIVEN}|{_HERE}))",
            rf"\b{_UNABLE} (?:directly |actually |currently |physically |really |truly )?{_VIEW}(?: (?:or|and|nor) {_VIEW})?"
            rf" (?:the |any |an? |your |this |that |these |those |my )?(?:provided |attached |uploaded |actual |specific )?{_NOUN}"
            rf"\b{_OF_THE_SCENE}",
            rf"\b{_NOUN} (?:(?:that you |you )?\w+ )?(?:did|could|does|has|have|was|were|is|can) not (?:properly |correctly )?"
            r"(?:load|be loaded|loaded|come through|appear|display|be displayed|been|provided|attached|included|uploaded|"
            r"available|accessible|be (?:viewed|accessed|opened|seen)|visible to me|shown to me)",
            rf"\b{_NOUN} (?:failed to load|(?:is|seems|appears)(?: to be)? (?:missing|unavailable|inaccessible|broken|corrupted))",
            rf"\bwithout (?:the|an|any|seeing|viewing|access to|being able to (?:see|view)|looking at)(?: the| an| any| your)? ?{_NOUN}"
            rf"(?: (?:itself|provided|attached))?\b{_OF_THE_SCENE}",
            rf"\b(?:upload|attach|share|send|resend|provide)(?: me)?(?: with)? (?:the|an?|your|that)(?: actual)? {_NOUN}",
            r"\byou (?:have|did) not (?:provide|provided|attach|attached|upload|uploaded|share|shared|include|included) ?"
            rf"(?:the|an?|any)? ?{_NOUN}",
            r"\b(?:forgot|forgotten) to (?:attach|upload|include)",
            r"(?:没有|未|没)(?:能)?(?:提供|上传|附上|收到|看到|显示|附带|发送|接收到)(?:任何|具体的?)?(?:图片|图像|照片|图)",
            r"(?:看不到|看不见|(?:无法|不能|没法)(?:直接)?(?:看到|查看|访问|打开|加载|读取|显示|查看到|分析|处理))"
            r"(?:您|你)?(?:提供|上传|发送|所说)?的?(?:这张|该|任何|这幅)?(?:图片|图像|照片)",
            r"(?:图片|图像|照片)(?:似乎)?(?:未|没有|没|无法|不能)(?:能)?(?:加载|显示|上传|打开|被提供|成功)",
            r"(?:没有|无)(?:图片|图像)(?:$|[。,,.!])|^(?:看不到|看不见|没有|没看到|无)图(?:$|[。,.!])|(?:图片|图像|照片)(?:缺失|丢失)",
            r"请(?:您|你)?(?:重新)?(?:上传|提供|发送)(?:一张|该|相关的?)?(?:图片|图像|照片)",
        )
    ),
    re.I,
)
_CANNOT = r"(?:(?:can|could) not|(?:am|is|are|was) not (?:able to|capable of)|unable to|incapable of)"
_HOW = r"(?:really |reliably |accurately |definitively |possibly |honestly |confidently |exactly |directly |actually |fully |even )?"
_ASKED = r"(?= (?:if|whether|what|how|which|where|who|the answer|enough|people|individuals|objects|real)\b| ?(?:[.,;!]|$))"
_TELL = (
    r"(?:be )?(?:determined?|tell|told|say|said|answer(?:ed)?|know|known|ascertain(?:ed)?|judged?|conclude[d]?|inferr?(?:ed)?|"
    r"decided?|estimated?|deduced?|assist|help|comply|provide|discuss|respond|figured? out|make (?:a|that|this|any) "
    r"(?:determination|judge?ment|call)|give (?:an?|you|any)|be (?:sure|certain)|choose|recogni[sz]ed?|count(?:ed)?|"
    rf"identif(?:y|ied){_ASKED}|confirm(?:ed)?{_ASKED}|verif(?:y|ied){_ASKED})"
)
_REFUSED = re.compile(
    "|".join(
        (
            rf"\b{_CANNOT} {_HOW}(?:{_TELL}\b|(?:see|make out|locate|identify|confirm|verify|find){_ASKED})",
            r"\b(?:not |im)possible to (?:tell|say|determine|know|answer|judge|identify|count|be (?:sure|certain)|see)",
            r"\bcannot (?:comment|engage)|\bmust decline\b|\bdecline to\b|\bwill not (?:answer|provide|help|assist|identify)",
            r"\b(?:do|does|did) not (?:know|understand|have (?:any |enough |sufficient |the |a )*(?:idea|clue|information|"
            r"context|details?|data|knowledge))",
            r"\b(?:have|has) (?:no|not) (?:\w+ )?(?:idea|clue|way of (?:knowing|telling)|information|enough information)",
            r"^\W*(?:no (?:idea|clue|answer|comment)|unknown|undetermined|unanswerable)\W*$|\bno way (?:to|of) (?:tell|know)",
            r"\b(?:not enough|insufficient|lacks?|lacking|no|without (?:more|further|additional|any)) (?:sufficient |specific |"
            r"visual |such |relevant )*(?:information|context|details?|data|evidence)\b",
            r"\bnot (?:give|provide|contain|show|offer)(?: me| us)? (?:enough|sufficient|any)(?: \w+)? (?:information|context|details?|data|evidence)",
            r"\b(?:information|question|it|this) (?:is|are) (?:not (?:provided|sufficient|given|specified|answerable|available)|"
            r"insufficient|unanswerable)",
            r"\bas an? (?:ai|artificial|text-based|language|text-only)\b|\bi am (?:an ai|a (?:text|language)|just an? ai)",
            r"\bnot (?:going|able|comfortable|allowed|permitted|in a position) to\b|\bnot comfortable\b|\bmy guidelines\b",
            r"\b(?:could|can|would) you (?:please |kindly )?(?:provide|share|clarify|rephrase|specify|describe|give|upload|attach)",
            r"\bplease (?:provide|share|clarify|rephrase|specify|describe|give|upload|attach|ask)",
            r"\bsorry,? (?:but )?i (?:can|could|am) not\b",
            r"无法(?:\w{0,4})(?:确定|判断|回答|看到|识别|提供|得知|辨认|分辨|得出|作答|看清|计数|统计|确认)|"
            r"不能(?:\w{0,3})(?:确定|判断|回答|提供|识别|看出)|不知道|不太?清楚|不明白|(?:没有|缺乏)足够的?(?:信息|细节)|信息不(?:足|够)|"
            r"作为(?:一个|一名)?(?:ai|人工智能|语言模型)|请(?:您|你)?(?:提供|说明|描述|澄清)|判断不出|看不出来?|难以(?:判断|确定)",
        )
    ),
    re.I,
)
DOUBT = re.compile(
    r"\b(?:maybe|perhaps|possibly|might|may be|may have|could (?:also )?be|not (?:entirely |completely |quite |really |so )?"
    r"(?:sure|certain|clear|necessarily)|unsure|uncertain|unclear|ambiguous|it depends|depends on|(?:hard|difficult|tough|tricky)"
    r" to (?:say|tell|determine|know|judge|see)|questionable|open to interpretation|impossible|unable to)\b"
    r"|可能|也许|或许|不确定|说不准|看不清|不好说",
    re.I,
)
# After "the answer is", "Answer:", "my choice would be", "I choose", "答案是"; what stands there is concluded.
CUE = re.compile(
    r"(?<!wrong )(?<!incorrect )(?<!false )(?<!other )(?:"
    r"\b(?:answer|choice|option|selection|pick|conclusion|prediction)\b(?: (?:here|to (?:the|this|your) question|"
    r"for (?:the|this) question))?(?:\s+(?:is|would be|should be|must be|will be|has to be)\b\s*:?|\s*[:=])"
    r"|\b(?:correct|right|best|true) one (?:is|would be|must be)\b"
    r"|\bi (?:would |will |must |should |have to )?(?:choose|select|pick|go with|opt for|vote for)\b"
    r"|\bi (?:would|will) (?:say|answer|guess)\b"
    r"|(?:正确)?答案(?:应该?)?(?:是|为|选择?|:)\s*:?|(?:应该?|故|因此|所以|我会?)选择?(?:选项)?(?:是|为|:)?|^选择?(?:选项)?(?:是|为|:)?)",
    re.I | re.M,
)
THEREFORE = re.compile(r"\b(?:therefore|thus|hence|so|in\s+total|in\s+all|consequently)\b|所以|因此", re.I)


def clean(reply: str, spelt_out: bool = True) -> Wording:
    """A reply without its dress; contractions are spelt out ("isn't" is "is not") unless they are wanted."""
    text = reasoning.before_answer(_typed(reply))
    text = _FENCE.sub("\n", _TAGS.sub(" ", text))
    finals: list[str] = []
    text = _OBJECT.sub(lambda match: _object(match.group(), finals), text)
    text = _BOXED.sub(lambda match: _boxed(match.group(1), finals), text)
    if len(text) > _LONGEST:  # it begins with its answer, or ends with it
        text = f"{text[:_BEGINNING]}\n{text[_BEGINNING - _LONGEST :]}"
    return Wording(
        _plain(text, spelt_out), tuple(filter(None, (_plain(final, spelt_out) for final in finals)))
    )


def undressed(text: str, spelt_out: bool = True) -> str:
    """A text that is held against a reply, an option's, say: as `clean` leaves the same words of a reply."""
    return _plain(_typed(text), spelt_out)


def refusal(text: str) -> str:
    """`NO_PICTURE`, `REFUSED`, or "" of a text that `clean` gave."""
    if _NO_PICTURE.search(text):
        return NO_PICTURE
    return REFUSED if _REFUSED.search(text) else ""


def refused_at(text: str) -> int:
    """Where a text that `clean` gave begins to decline; its length where it does not."""
    found = _REFUSED.search(text)
    return found.start() if found else len(text)


def clauses_after(pattern: re.Pattern[str], text: str) -> list[str]:
    """What follows each match of a pattern, up to the end of its sentence."""
    rests = [text[match.end() :].lstrip(" :*\"'\n-") for match in pattern.finditer(text)]
    return [re.split(r"[.!?](?:\s|$)|[。!?\n]", rest, maxsplit=1)[0] for rest in rests]


def without_questions(text: str) -> str:
    """A text without the sentences that ask, where others are left: "Left or right? Left."."""
    return re.sub(r"[^.!?\n。?]*\?", " ", text).strip() or text


def _typed(text: str) -> str:
    """A text in one way of typing it: typographic variants, and traditional characters of words that are read here."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'").replace("‘", "'")
    text = text.replace("−", "-").replace("–", "-").replace("—", " - ")
    return text.translate(_SIMPLIFIED)


def _object(written: str, finals: list[str]) -> str:
    """Takes the answer out of a JSON (or Python) object; what is no such object stays in the text."""
    try:
        value = json.loads(written)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(written)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return written
    if not isinstance(value, dict):
        return written
    said = [_scalar(v) for key, v in value.items() if re.sub(r"[\W_]+", "", str(key).lower()) in _KEYS]
    if not said and len(value) == 1:
        said = [_scalar(v) for v in value.values()]
    said = [text for text in said if text]
    if not said:
        return written
    finals.append(". ".join(said))
    return " "


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return ""


def _boxed(content: str, finals: list[str]) -> str:
    finals.append(content)
    return content


def _plain(text: str, spelt_out: bool) -> str:
    for _ in range(_DEEPEST):
        text = _STYLED.sub(r"\1", text)
    text = re.sub(r"\\[()\[\]]|\\[,;!: ]|\\q?quad\b|\\left\b|\\right\b", " ", text)
    text = re.sub(r"\\(?:times|cdot)\b", "*", text)
    text = re.sub(r"~~[^~\n]*~~", " ", text)  # struck out
    text = _WRONG_LINE.sub("", text)
    text = re.sub(r"[❌✗✘✖]", " is wrong ", text)
    text = re.sub(r"^[ \t]*#+[ \t]*|^[ \t]*>[ \t]*", "", text, flags=re.M)
    text = re.sub(r"[*`$\"_“”「」『』《》✅✓✔☑👍🙂😊]|(?<!\w)'|'(?!\w)", "", text)
    for pattern, full in _CONTRACTIONS if spelt_out else ():
        text = pattern.sub(full, text)
    return re.sub(r"[ \t]+", " ", text).strip()
