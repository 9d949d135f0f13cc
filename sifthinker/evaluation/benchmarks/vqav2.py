"""VQAv2: short answers, each compared with those of ten people.

`v2_OpenEnded_mscoco_val2014_questions.json` and `v2_mscoco_val2014_annotations.json`; images of COCO:

    {"data_subtype": "val2014", "questions": [{"image_id": 262148, "question": "Where is he looking?",
     "question_id": 262148000}]}
    {"annotations": [{"question_id": 262148000, "image_id": 262148, "answer_type": "other", "question_type": "where",
     "multiple_choice_answer": "down", "answers": [{"answer": "down", "answer_confidence": "yes", "answer_id": 1}]}]}

Or `lmms-lab-encoder/VQAv2`, Parquet files with the images inside (`data/validation-00000-of-00068.parquet`), both files' fields
in one row; those of the answers are null in `testdev` and `test`:

    {"question_type": "where", "multiple_choice_answer": "down", "answers": [{"answer": "down", ...}], "image_id": 262148,
     "answer_type": "other", "question_id": 262148000, "question": "Where is he looking?", "image": {"bytes": b"..."}}

`split` is "val2014" (default) or "test-dev2015", whose answers are hidden: nothing is scored then, and
`vqav2_submission.json` is written for EvalAI, over the whole of test2015 as it wants, "" for what was not asked. Which
questions these are is read from the questions' file of test2015 or from the Parquet files of `test`.

`official` is VQA's rule (GT-Vision-Lab/VQA, vqaEval.py): the mean over the ten of min(1, agreeing others / 3).
Punctuation, number words, articles and contractions are normalised on both sides *only where the ten do not all say
the same*, so that "Yes." is wrong where all ten say "yes". `strict` normalises always (as lmms-eval and EvalAI's
processor do), takes "Yes, it is." for the yes that it says and "The answer is red." for red, and reads a sentence by the
form of the question: a yes or no, a number, or a phrase of at most six words. What is none of these, and a reply that
declines, is unparsable; "don't know" and "can't tell" are answers that people give, and count as such. So is the letter "a",
of which VQA's normalisation leaves nothing because it drops articles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sifthinker import config
from sifthinker.core import errors
from sifthinker.core.errors import BadRow
from sifthinker.core.records import Reject
from sifthinker.evaluation.benchmarks import files, metrics, replies, wording
from sifthinker.evaluation.benchmarks.question import Answer, Measure, Question, Result, Verdict

PUBLISHED = (
    "https://visualqa.org/download.html with https://cocodataset.org (val2014, test2015), "
    "https://huggingface.co/datasets/lmms-lab-encoder/VQAv2 (Parquet)"
)
PARQUET = {
    "val2014": "validation",
    "test-dev2015": "testdev",
    "test2015": "test",
}  # split: lmms-lab-encoder's
INSTRUCTION = "\nAnswer the question using a single word or phrase."

_WHOLE_TEST = "v2_OpenEnded_mscoco_test2015_questions.json"

# vqaEval.py: what words become. Its contractions: every form below without one of its apostrophes gets it back.
_DIGITS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5"} | {
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_FORMS = """ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't
not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"""
_CONTRACTIONS = {
    form[: mark.start()] + form[mark.end() :]: form
    for form in _FORMS.split()
    for mark in re.finditer("'", form)
} | {"somebody'd": "somebodyd"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
# Of the strict reading only.
_CUE = re.compile(r"^\W*(?:the )?answer(?: is|:)\s*", re.I)
_LEAD_IN = re.compile(
    r"^\W*(?:i (?:think|believe|would say|guess) (?:that )?)?(?:it|this|that|he|she|they|these|those|there)(?: (?:is|are)|'s|'re)\s+(?=\w)"
    r"|^\W*i (?:think|believe|would say|guess)\s+(?=\w)",
    re.I,
)
_YES_OR_NO = re.compile(
    r"^\s*(?:is|are|was|were|do|does|did|can|could|has|have|will|would|should)\b(?!.*\bor\b)", re.I
)
_HOW_MANY = re.compile(r"\bhow many\b", re.I)
_LONGEST = 6  # words of an answer; the ten people use one to three
_PEOPLE_DO_NOT_KNOW = 2  # words: "don't know" and "can't tell" are answers that the ten people give
_THOUSANDS = re.compile(r"(?<=\d) (?=\d{3}\b)")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"(?!<=\d)\.(?!\d)")  # the look-behind is misspelt there; it never forbids anything


def load(source: config.Benchmark) -> Iterator[Question | Reject]:
    """The questions of one split; see `question.Benchmark`."""
    split = source.split or "val2014"
    if parquet := files.shards(source, PARQUET.get(split, split)):
        if split.startswith("test"):
            _whole_test(source)
        for path in parquet:
            for index, row in files.parquet(path):
                try:
                    yield _embedded(row, hidden=split.startswith("test"))
                except BadRow as error:
                    yield files.reject(source.name, path, index, error)
        return
    path = files.find(source, f"v2_OpenEnded_mscoco_{split}_questions.json", PUBLISHED)
    hidden = split.startswith("test")
    people = {} if hidden else _answers(files.find(source, f"v2_mscoco_{split}_annotations.json", PUBLISHED))
    if hidden:
        _whole_test(source)
    files.image_folder(source, PUBLISHED)
    folder = "test2015" if hidden else split
    for index, row in enumerate(_items(path, "questions")):
        try:
            if not isinstance(row, dict):
                raise BadRow("not-an-object", f"wanted an object, found {type(row).__name__}")
            number = files.integer(row, "question_id")
            if not hidden and number not in people:
                raise BadRow("no-answers", f"question {number} has no annotation", "question_id")
            yield Question(
                id=str(number),
                group="all" if hidden else people[number][0],
                text=files.text(row, "question") + INSTRUCTION,
                image=f"COCO_{folder}_{files.integer(row, 'image_id'):012d}.jpg",
                reference="" if hidden else json.dumps(people[number][1]),
            )
        except BadRow as error:
            yield files.reject(source.name, path, index, error)


def official(question: Question, answer: Answer) -> Verdict:
    """VQA's vqaEval.py; see the module. A missing answer is wrong: to that script it would be the answer of who said "a"."""
    if answer.absent:
        return Verdict(0.0, "", answer.absent)
    people: list[str] = json.loads(question.reference or "[]")
    said = answer.text.replace("\n", " ").replace("\t", " ").strip()
    if len(set(people)) > 1:
        people = [_normalised(person) for person in people]
        said = _normalised(said)
    return Verdict(_agreement(said, people), said)


def strict(question: Question, answer: Answer) -> Verdict:
    """The short answer that the reply gives, normalised on both sides, always."""
    if answer.absent or not answer.text.strip():
        return Verdict(0.0, unparsable=answer.absent or "empty")
    read = _short_answer(answer.text, question.text)
    if read.problem:
        return Verdict(0.0, unparsable=read.problem)
    people = [
        _with_articles(wording.undressed(person, spelt_out=False) or person)
        for person in json.loads(question.reference or "[]")
    ]
    return Verdict(_agreement(read.value, people), read.value)


def score(results: Sequence[Result]) -> list[Measure]:
    """Mean accuracy over all questions, then of each type of answer."""
    types = metrics.groups(results)
    parts = {"overall": list(results)} | (types if len(types) > 1 else {})
    return [metrics.clustered(name, rows, metrics.share(rows), "share") for name, rows in parts.items()]


def submission(source: config.Benchmark, readings: Sequence[tuple[Question, str]]) -> tuple[str, bytes]:
    """Name and content of EvalAI's file for a hidden split."""
    said = {int(question.id): text for question, text in readings}
    rows = [
        {"question_id": number, "answer": said.get(number, "")}
        for path in _whole_test(source)
        for number in _ids(path)
    ]
    return "vqav2_submission.json", json.dumps(rows).encode()


def _embedded(row: dict[str, Any], hidden: bool) -> Question:
    number = files.integer(row, "question_id")
    answers = row.get("answers")
    if not hidden and not answers:
        raise BadRow("no-answers", f"question {number} has no answers", "answers")
    return Question(
        id=str(number),
        group="all" if hidden else str(row.get("answer_type") or "other"),
        text=files.text(row, "question") + INSTRUCTION,
        image=files.picture(row, "image"),
        reference="" if hidden else json.dumps([str(answer["answer"]) for answer in answers or ()]),
    )


def _whole_test(source: config.Benchmark) -> list[Path]:
    """Where the questions of all of test2015 are. The submission needs them, so they are checked before any answer is paid for."""
    folder = source.path if source.path.is_dir() else source.path.parent
    beside = source.model_copy(update={"path": folder})
    return files.shards(beside, "test") or [files.find(beside, _WHOLE_TEST, PUBLISHED)]


def _ids(path: Path) -> list[int]:
    if path.suffix == ".parquet":
        return [int(number) for number in files.column(path, "question_id")]
    return [row["question_id"] for row in _items(path, "questions")]


def _short_answer(reply: str, question: str) -> wording.Reading:
    """The word or phrase that a reply answers with, normalised; a sentence is read by the form of the question."""
    plain = wording.clean(reply, spelt_out=False)
    if len(set(plain.finals)) > 1:
        return wording.Reading(problem="several-named")
    text = plain.finals[0] if plain.finals else plain.text
    if (declined := wording.refusal(wording.clean(reply).text)) and len(text.split()) > _PEOPLE_DO_NOT_KNOW:
        return wording.Reading(problem=declined)
    if declined == wording.NO_PICTURE:
        return wording.Reading(problem=declined)
    phrase = _CUE.sub("", text)
    if first := re.match(r"\W*(yes|no)\s*[.,;:!]", phrase, re.I):
        return wording.Reading(first.group(1).lower())
    asked = question.split("\n")[0]
    if _YES_OR_NO.match(asked) and (read := replies.yes_no(reply, asked)).value:
        return read
    if _HOW_MANY.search(asked) and (read := replies.number(reply, asked)).value:
        return read
    clauses = wording.clauses_after(wording.CUE, text)
    if clauses and len(phrase.split()) > _LONGEST:
        phrase = clauses[-1]
    phrase = _LEAD_IN.sub("", phrase)
    if noun := re.match(r"what (\w+)", asked, re.I):  # "What sport is this?" "The sport is tennis."
        phrase = re.sub(rf"^\W*the {noun.group(1)}(?: of [\w ]+?)? is ", "", phrase, flags=re.I)
    if len(phrase.split()) > _LONGEST or re.search(r"[.!?]\s+\w", phrase.strip()):
        return wording.Reading(problem="no-short-answer")
    # "#" marks a heading at the beginning of what people said, where it is left out, too.
    said = _with_articles(re.sub(r"(?<!\S)#(?=\w)", "", _THOUSANDS.sub("", phrase)))
    return wording.Reading(said) if re.search(r"\w", said) else wording.Reading(problem="none-named")


def _agreement(said: str, people: Sequence[str]) -> float:
    if not people:  # hidden
        return 0.0
    agreeing = [person == said for person in people]
    return sum(min(1.0, (sum(agreeing) - mine) / 3) for mine in agreeing) / len(people)


def _normalised(text: str) -> str:
    """vqaEval.py's processPunctuation, then processDigitArticle."""
    out = text.replace("\n", " ").replace("\t", " ").strip()
    seen = out
    number = _COMMA_IN_NUMBER.search(seen) is not None
    for mark in _PUNCTUATION:
        out = out.replace(mark, "" if f"{mark} " in seen or f" {mark}" in seen or number else " ")
    out = _PERIOD.sub("", out, count=int(re.UNICODE))  # a flag passed as the count: the first 32 only
    words = [_DIGITS.get(word, word) for word in out.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in ("a", "an", "the"))


def _with_articles(text: str) -> str:
    """A normalised text; the articles stay where they are all that it has: "a" is the answer to "Which letter is it?"."""
    return _normalised(text) or " ".join(re.findall(r"\w+", text.lower()))


def _answers(path: Path) -> dict[int, tuple[str, list[str]]]:
    """Type of answer and the people's answers by question."""
    found = {}
    for index, row in enumerate(_items(path, "annotations")):
        try:
            answers = [str(answer["answer"]) for answer in row["answers"]]
            found[int(row["question_id"])] = (str(row.get("answer_type", "other")), answers)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise errors.UserError(
                f"{path}: annotation {index} has no question_id and answers ({type(error).__name__}: {error}); fetch it again"
            ) from error
    return found


def _items(path: Path, field: str) -> list[Any]:
    """The list under `field` of a JSON object. Whole in memory: the largest file, val's annotations, has 350 MB."""
    document = files.json_document(path)
    rows = document.get(field) if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise errors.UserError(f"{path}: wanted an object with a list of `{field}`; fetch it again")
    return rows
