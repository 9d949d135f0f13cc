"""What a reasoning model writes before a chain or a score is put aside where that is certain."""

from pathlib import Path

import pytest

from sifthinker.annotation import acceptance
from sifthinker.core.reasoning import before_answer, before_chain
from sifthinker.llm import judge
from tests.annotation.test_acceptance import ASKED, BARE, GOOD, ROW

CASE = Path(__file__).resolve().parents[3] / "shared" / "data" / "cases" / "05-think-before-chain"


@pytest.mark.parametrize(
    ("reply", "repairs"),
    [
        (f"<think>\nTwo regions.\n</think>\n\n{GOOD}", ("reasoning",)),
        (f"<think>\n\n</think>\n\n{GOOD}", ("reasoning",)),  # empty, as with /no_think
        (f"<think></think>{GOOD}", ("reasoning",)),
        (f"<think>\nI look.\n</think>\n{BARE}", ("reasoning", "fence")),  # the chain without its fence
        (
            f"<think>\nThree ``` backticks, <area> then <text>, <answer> last.\n</think>\n{GOOD}",
            ("reasoning",),
        ),
        (
            f"<think>\nDraft: <think><area>[]</area></think><answer>red</answer>.\n</think>\n{GOOD}",
            ("reasoning",),
        ),
        (f"Two regions.\n</think>\n\n{GOOD}", ("reasoning",)),  # the template opened the block in the prompt
        (f"<think>\nTwo regions, and then it never closes.\n{GOOD}", ("reasoning",)),
        (f"<think>\nNever closes.\n{GOOD.replace('```', '```xml', 1)}", ("reasoning", "fence")),
        (f"<think>\nNever closes, no fence.\n{BARE}", ("reasoning", "fence")),
        (f"<think>\nA.\n</think>\nHere it is:\n{GOOD}\nDone.", ("reasoning", "fence")),
        (GOOD, ()),
        (f"Here it is:\n{GOOD}", ("fence",)),
    ],
)
def test_reasoning_before_the_chain_is_put_aside(reply, repairs):
    accepted = acceptance.check(reply, ASKED, ROW)
    assert isinstance(accepted, acceptance.Accepted), accepted
    assert accepted.repairs == repairs
    assert accepted.chain == acceptance.check(GOOD, ASKED, ROW).chain


@pytest.mark.parametrize(
    "reply",
    [
        f"{GOOD}\n{GOOD}",  # two chains: which is meant is not certain
        f"{BARE}\n{BARE}",
        f"<think>\nI answer <answer>red</answer> at once.\n{GOOD}",  # not closed, and it answers
        "<think>\nOnly reasoning.\n</think>",
        "<think>\nOnly reasoning.\n</think>\n<answer>red</answer>",  # an answer and no chain
        f"<think>\nI look.\n</think>\n{GOOD.replace('<think>', '')}",  # the chain lacks its own tag
    ],
)
def test_what_is_not_certainly_reasoning_is_refused(reply):
    refused = acceptance.check(reply, ASKED, ROW)
    assert isinstance(refused, acceptance.Refused), refused
    assert refused.kind in ("malformed", "areas")  # two bare chains have twice the areas


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('<think>\nBoth say the same.\n</think>\n\n{"score": 0.8}', 0.8),
        ('<think>\n\n</think>\n\n```json\n{"score": 1}\n```', 1.0),
        ('They differ.\n</think>\n{"score": 0.1}', 0.1),
        (f'<think>{"long " * 200}</think>{{"score": 0.4}}', 0.4),
        ('<think>\nBoth say the same: {"score": 0.8}', None),  # still thinking when it was cut off
        ("<think>\n0.9\n</think>", None),
    ],
)
def test_a_judges_reasoning_is_put_aside(reply, score):
    assert judge.score(reply) == score


@pytest.mark.skipif(not CASE.is_dir(), reason="../shared/data/cases is not here")
@pytest.mark.parametrize("name", ["reasoned.txt", "empty.txt", "backticks.txt"])
def test_the_reported_replies_are_accepted(name):
    from sifthinker.core.records import Region, Sample

    box = (0.2, 0.2, 0.5, 0.5)
    row = Sample(
        "s/d/1", "s", "d", "train", "What colour is the mug?", "blue", "a", "0" * 64, 100, 80, (box,)
    )
    asked = ((Region((0.0, 0.0, 1.0, 1.0), 0.512),), (Region(box, 0.3),))
    assert isinstance(acceptance.check((CASE / name).read_text(), asked, row), acceptance.Accepted)


@pytest.mark.parametrize(
    ("reply", "rest", "aside"),
    [
        (" <think>r</think> b <think>c ", "b <think>c", True),
        ("r</think><think>c", "<think>c", True),  # opened in the prompt
        ("r <answer> s</think><think>c", "<think>c", True),  # what reasoning holds does not matter
        ("<think>r\n<think>c", "<think>c", True),  # never closed
        ("<think>r ```xml\n<think>c", "```xml\n<think>c", True),  # the chain keeps its fence
        (" talk <think>c", "talk <think>c", False),
        ("<think>c</think>", "<think>c</think>", False),
        ("r</think>", "r</think>", False),  # no chain follows
        ("", "", False),
        ("r</think> <answer>x <think>c", "r</think> <answer>x <think>c", False),
        ("r</think> x</answer> <think>c", "r</think> x</answer> <think>c", False),
        ("<think>r <answer>x <think>c", "<think>r <answer>x <think>c", False),
        ("<think>r x</answer> <think>c", "<think>r x</answer> <think>c", False),
    ],
)
def test_a_reply_is_cut_where_its_chain_begins_or_stays_whole(reply, rest, aside):
    assert before_chain(reply) == (rest, aside)


def test_an_answer_begins_behind_the_last_reasoning_block():
    assert before_answer("a</think>b</think> c ") == "c"
    assert before_answer(" no reasoning ") == "no reasoning"
