"""Why a reply is not read, by name, and the verdicts that follow from a reading."""

import pytest

from sifthinker.evaluation.benchmarks import replies
from sifthinker.evaluation.benchmarks.question import Answer, Question, Verdict
from sifthinker.evaluation.benchmarks.replies import Reading

SIDE = (("A", "left"), ("B", "right"))


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("", Reading(problem="empty")),
        (" ** ", Reading(problem="empty")),
        ("B", Reading("1")),
        ("C", Reading(problem="none-named")),
        ("something else", Reading(problem="none-named")),
        ("left and right", Reading(problem="several-named")),
        ("A and B", Reading(problem="several-named")),
        ("B. left", Reading(problem="contradictory")),
        ("I cannot tell whether it is left", Reading(problem="refused")),
        ("Left is the right answer", Reading("0")),  # "right" is no direction there
    ],
)
def test_an_option_or_why_there_is_none(text: str, reading: Reading) -> None:
    assert replies.choice(text, SIDE) == reading


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("", Reading(problem="empty")),
        *((word, Reading("yes")) for word in ("Yes", "yeah", "yep")),
        *((word, Reading("no")) for word in ("No", "nope")),
        *((f"{word}, but I am not sure", Reading("no")) for word in ("no", "nope")),
        *((f"{word}, though it is unclear", Reading("yes")) for word in ("yes", "yeah", "yep")),
        ("yes and no", Reading(problem="contradictory")),
        ("not yes", Reading("no")),
        ("unclear", Reading(problem="doubt")),
        ("it is not there", Reading("no")),
        ("it isn't", Reading("no")),
        ("a dog", Reading(problem="none-named")),
        ("yes or no? The answer is no", Reading("no")),
    ],
)  # fmt: skip
def test_a_yes_or_no_or_why_there_is_none(text: str, reading: Reading) -> None:
    assert replies.yes_no(text) == reading


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("", Reading(problem="empty")),
        ("3", Reading("3")),
        ("3 or 4", Reading(problem="several-named")),
        ("I cannot tell", Reading(problem="refused")),
        ("none", Reading("0")),
        ("many", Reading(problem="none-named")),
    ],
)
def test_a_number_or_why_there_is_none(text: str, reading: Reading) -> None:
    assert replies.number(text) == reading


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer("right"), Verdict(1.0, "B")),
        (Answer("(A)"), Verdict(0.0, "A")),
        (Answer("neither"), Verdict(0.0, "", "none-named")),
        (Answer("B", absent="cut-off"), Verdict(0.0, "", "cut-off")),
    ],
)
def test_the_verdict_of_a_choice_is_by_letter(answer: Answer, verdict: Verdict) -> None:
    assert replies.judged_choice(Question("1", "g", "Where?", "a.jpg", "B", SIDE), answer) == verdict


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer("yes, it is"), Verdict(1.0, "yes")),
        (Answer("No."), Verdict(0.0, "no")),
        (Answer("a dog"), Verdict(0.0, "", "none-named")),
        (Answer("yes", absent="no-answer"), Verdict(0.0, "", "no-answer")),
    ],
)
def test_the_verdict_of_a_yes_or_no_ignores_the_case_of_the_reference(
    answer: Answer, verdict: Verdict
) -> None:
    assert replies.judged_yes_no(Question("1", "g", "Is it?", "a.jpg", "Yes"), answer) == verdict
