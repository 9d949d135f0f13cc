"""What every benchmark speaks of: a question, what a reply says, a verdict on it, a score, and the benchmark itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from sifthinker import config, llm
from sifthinker.core import errors
from sifthinker.core.depth_maps import SummedArea
from sifthinker.core.records import Box, Reject


class Missing(errors.UserError):
    """A benchmark's files are not there: the message says which it wants and where they are published."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a benchmark. Nothing but `text` and the image is ever sent to the model."""

    id: str  # unique in the benchmark and the same in every run
    group: str  # category, source or split, as the published tables have it
    text: str  # as the model gets it, before the prompt's suffix
    image: str | bytes  # path relative to the image folder, or the file itself where it is embedded
    reference: str  # the right answer, in the benchmark's own form; "" where it is hidden
    options: tuple[tuple[str, str], ...] = ()  # (letter, text), in the order of the question
    unit: str = ""  # questions of one unit are drawn and scored together (a pair); "" = on its own
    cluster: str = ""  # the image, for intervals; "" = its path
    width: int = 0  # pixels; only where the benchmark's metric needs them
    height: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reply gives to be scored: its final answer and the boxes of its last area."""

    text: str  # inside <answer> of a chain, the whole reply otherwise; "" when there is none
    # Of the last area, valid ones in 0..1 of the image; () when one of them is not valid.
    boxes: tuple[Box, ...] = ()
    area: str = ""  # the last area as it stands, for rules that take any numbers
    absent: str = ""  # why there is no text: "no-answer", "cut-off", "refused"
    judged: tuple[str, ...] = ()  # what a judge said of it, where the benchmark has one
    # Why each of these is no score ("judge-refused"), "" where it is one; (): all are.
    unjudged: tuple[str, ...] = ()
    frame: str = ""  # the frame that its boxes were converted from; "" where they are as the reply has them
    # With `Benchmark.scores_chain`: the reply as it stands (None where no chain was asked for) and its image's depth.
    chain: str | None = None
    depth: SummedArea | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A score for one reply under one rule."""

    score: float  # 1 = right, 0 = wrong; in between or below where the published rule is graded
    reading: str = ""  # what the reply was read as: "B", "yes", "3", boxes as JSON
    unparsable: str = ""  # why nothing could be read; "" when something was
    parts: tuple[tuple[str, float], ...] = ()  # where a benchmark scores more than one thing of a reply


@dataclass(frozen=True, slots=True)
class Measure:
    """An aggregated score with its 95 % interval."""

    metric: str
    value: float
    n: int  # questions in it
    unparsable: int  # of these
    refused: int  # of the unparsable: replies that decline, or say that they see no picture
    low: float
    high: float
    unit: Literal["share", "points"]


# The versions of the rules by which replies are read and scored, by the benchmark. One goes up whenever a reply to that
# benchmark may be scored differently: scores of two versions are never compared as if the model had changed. A change in
# what many benchmarks share (`replies`, `choices`, `wording`) raises each of them. Until version 5 all had one number:
#   1: until 2026-11.
#   2: refusals are told apart, affirmations mirror denials, rejected options are never chosen, boxes have a frame,
#      SAT's choices are shuffled.
#   3: more rejections ("A is the wrong answer", "anything but A") and more replies without a picture ("I see no image").
#   4: an option may end in "A" ("sample A"); OVDEval's labels may be in other case, and an empty list says "None".
#   5: what the chosen option is compared with is not chosen too ("the lamp is closer than the chair"), where the question
#      compares so.
_COMMON = 5
_OPTIONS = 6  # an option's own text is that option, whatever it denies or doubts; a contrary ("it is farther") is not chosen
RULES = {  # by the key of `BENCHMARKS`, of those that have changed since
    **dict.fromkeys(("cvbench", "mmbench", "sat", "seed", "spatialbench", "vstar"), _OPTIONS),
    # 6: a picture of whose questions only one could be asked is no pair; it counted as one.
    # 7: as pope.
    "mme": 7,
    "ovdeval": 6,  # a reply without an answer has no boxes for `strict`; the area where it was cut off was scored
    # 6: a reply without an answer is wrong by the published rule, too; it was a yes.
    # 7: denials in traditional characters are read, and Japanese is not read as Chinese; both were a yes.
    "pope": 7,
    "refcoco": 6,  # as ovdeval
    # 6: as pope's 6; a missing answer was right where people had said "a", which the published rule drops.
    # 7: the strict rule reads "a" where people said "a", the letter; it read nothing.
    # 8: signs ("$5", "#1") are left aside in what people said, too; they were in the reply alone.
    "vqav2": 8,
    # 6: what the judge gives no score is the judge's failure; it was the model's wrong answer.
    # 7: a failure of the one judge leaves the other's score as it is; both were 0.
    "viscot": 7,
}
REFUSALS = ("refused", "no-picture")  # reasons in `Verdict.unparsable`; see wording.py

Result = tuple[Question, Verdict]


def rules(benchmark: str) -> int:
    """The version of the rules that now score a benchmark, a key of `BENCHMARKS`."""
    return RULES.get(benchmark, _COMMON)


class Rules(Protocol):
    """What the module of a benchmark has: pure functions, no state."""

    PUBLISHED: str  # where its files are published

    def load(self, source: config.Benchmark) -> Iterator[Question | Reject]:
        """The questions of its files, in their published form and order.

        Raises:
            Missing: a file is not there.
            UserError: a file cannot be read as what it should be.
        """

    def official(self, question: Question, answer: Answer) -> Verdict:
        """The published rule to the letter, quirks included."""

    def strict(self, question: Question, answer: Answer) -> Verdict:
        """What the reply says, as a person reads it; what cannot be read is wrong and says why."""

    def score(self, results: Sequence[Result]) -> list[Measure]:
        """The published aggregation of either kind of verdict."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The entry of a benchmark in `BENCHMARKS`: its rules, and what only some benchmarks have.

    Attributes:
        rules: its module.
        headlines: the metrics that stand for it where there is room for few, an average or a total; (): all it has,
            but for parts of another metric ("answer/gqa").
        scores_chain: whether its rules want the whole reply and the depth map of the image (`Answer.chain`, `depth`).
        turned: where its references hold boxes, the question for the upright picture of a file with an EXIF
            orientation (2 to 8). None: there are no boxes, or its reader turns them.
        judge_requests: where its answers are free text, what to ask a judge: of the question, the answer and the URL
            of the image. The replies come back in `Answer.judged`.
        submission: where a split's answers are hidden, the name and the content of the file for the server that has
            them, from what the replies were read as, or their text where the strict rule read nothing.
    """

    rules: Rules
    headlines: tuple[str, ...] = ()
    scores_chain: bool = False
    turned: Callable[[Question, int], Question] | None = None
    judge_requests: Callable[[Question, Answer, str], Sequence[llm.Request]] | None = None
    submission: Callable[[config.Benchmark, Sequence[tuple[Question, str]]], tuple[str, bytes]] | None = None

    @property
    def published(self) -> str:
        """Where its files are published."""
        return self.rules.PUBLISHED

    def load(self, source: config.Benchmark) -> Iterator[Question | Reject]:
        """See `Rules.load`."""
        return self.rules.load(source)

    def official(self, question: Question, answer: Answer) -> Verdict:
        """See `Rules.official`."""
        return self.rules.official(question, answer)

    def strict(self, question: Question, answer: Answer) -> Verdict:
        """See `Rules.strict`."""
        return self.rules.strict(question, answer)

    def score(self, results: Sequence[Result]) -> list[Measure]:
        """See `Rules.score`."""
        return self.rules.score(results)
