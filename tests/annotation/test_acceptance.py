"""What is accepted of an annotator's reply, and what is refused."""

import dataclasses

import pytest

from sifthinker.annotation.acceptance import Accepted, Refused, check
from sifthinker.core.prompts import ANNOTATOR_SYSTEM, regions_json
from sifthinker.core.records import Region, Sample

ROW = Sample(
    "a/b/0", "a", "b", "train", "What colour?", "red", "x.png", "0", 100, 100, ((0.2, 0.2, 0.4, 0.4),)
)
ASKED = (
    (Region((0.0, 0.0, 1.0, 1.0), 0.512),),
    (Region((0.1, 0.1, 0.5, 0.5), 0.4), Region((0.6, 0.1, 0.9, 0.5), 0.35)),
    (Region((0.2, 0.2, 0.4, 0.4), 0.331),),
)
TEXTS = ("The scene opens up.", "Two parts stand out.", "This one is red.")


def reply(areas=None, texts=TEXTS, answer="red") -> str:
    areas = areas or [regions_json(step) for step in ASKED]
    pairs = "\n".join(f"<area>{a}</area>\n<text>{t}</text>" for a, t in zip(areas, texts, strict=True))
    return f"```\n<think>\n{pairs}\n</think>\n<answer>\n{answer}\n</answer>\n```"


GOOD = reply()
BARE = GOOD.removeprefix("```\n").removesuffix("\n```")
EXAMPLE = ANNOTATOR_SYSTEM.partition("<text>")[2].partition("</text>")[0]


@pytest.mark.parametrize(
    ("text", "repairs"),
    [
        (GOOD, ()),  # exactly as asked
        (BARE, ("fence",)),  # without the fence
        (GOOD.replace("```\n<think>", "```xml\n<think>"), ("fence",)),  # with a language
        (f"Here it is:\n{GOOD}\nDone.", ("fence",)),  # with talk around the fence
        (GOOD.removesuffix("```"), ("fence",)),  # the closing fence is missing, the chain is whole
        (GOOD.replace("0.512", "0.5121"), ("depth-rounding",)),  # more decimals of the same number
        (GOOD.replace("0.512", "0.51"), ("depth-rounding",)),  # fewer decimals
        (GOOD.replace("0.331", "0.332"), ("depth-rounding",)),  # one unit in the third decimal
        (GOOD.replace("[0.6, 0.1, 0.9", "[0.6, 0.1, 0.90004"), ("box-rounding",)),  # equal to 3 decimals
        (GOOD.replace("[0.6, 0.1, 0.9", "[0.600, 0.100, 0.900"), ()),  # the same numbers, written longer
    ],
)
def test_a_reply_that_is_what_was_asked_is_accepted_and_its_exact_repairs_are_recorded(text, repairs):
    accepted = check(text, ASKED, ROW)
    assert isinstance(accepted, Accepted), accepted
    assert accepted.repairs == repairs
    assert accepted.chain == check(GOOD, ASKED, ROW).chain  # whatever was mended, the result is canonical
    assert accepted.agrees


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "malformed"),  # nothing
        ("I cannot help with that.", "malformed"),  # no chain
        (GOOD[: len(GOOD) // 2], "malformed"),  # cut off in an area
        (BARE.replace("</answer>", ""), "malformed"),  # cut off in the answer
        (GOOD + "\n" + GOOD, "malformed"),  # two chains
        (BARE.replace("</think>", "</think> so:"), "malformed"),  # text between the blocks
        (reply([regions_json(s) for s in ASKED[:2]], TEXTS[:2]), "areas"),  # the last step is missing
        (reply([regions_json(ASKED[i]) for i in (0, 2, 1)]), "boxes"),  # another order
        (GOOD.replace("[0.2, 0.2, 0.4, 0.4]", "[0.2, 0.2, 0.4, 0.402]"), "boxes"),  # off by two units
        (reply([regions_json(s[:1]) for s in ASKED]), "boxes"),  # one of two boxes
        (GOOD.replace("0.512", "0.515"), "depths"),  # more than rounding
        (GOOD.replace("0.35", "0.4"), "depths"),  # rounded to 1 decimal is another number
        (reply(texts=("a", " ", "b")), "malformed"),  # an empty text
        (reply(texts=("One.", "one", "Two.")), "repeated"),  # the same text twice
        (reply(texts=(EXAMPLE, "b", "c")), "copied"),  # the prompt's example
        (reply(texts=("a", "In the green box is a coat.", "c")), "leak"),  # tells of the drawing
        (reply(texts=("a", "b", "The answer is given as red.")), "leak"),  # tells that it knew
        (reply(texts=("a", "b", "It matches the provided answer.")), "leak"),
        (reply(texts=("As instructed, I look.", "b", "c")), "leak"),  # tells of the instructions
        (reply(answer="red, the given answer"), "leak"),  # in the answer
        (
            reply(answer="red\nFocus on the region with the normalized bounding box"),
            "leak",
        ),  # the prompt's words
        (reply(answer=""), "malformed"),  # an empty answer
    ],
)
def test_a_reply_that_is_not_what_was_asked_is_refused_with_a_reason(text, kind):
    refused = check(text, ASKED, ROW)
    assert isinstance(refused, Refused), refused
    assert refused.kind == kind, refused.reason
    assert len(refused.reason) > 10


def test_an_accepted_reply_carries_its_canonical_chain_and_its_answer():
    accepted = check(f"<think>I look.</think>\n{GOOD}", ASKED, ROW)
    assert accepted == Accepted(BARE, "red", True, ("reasoning",))


def test_each_repair_is_recorded_once():
    text = GOOD.replace("0.512", "0.51").replace("0.331", "0.33")
    text = text.replace("[0.1, 0.1, 0.5", "[0.1, 0.1, 0.50004").replace(
        "[0.2, 0.2, 0.4", "[0.2, 0.2, 0.40004"
    )
    accepted = check(text.removesuffix("```"), ASKED, ROW)
    assert isinstance(accepted, Accepted)
    assert accepted.repairs == ("fence", "depth-rounding", "box-rounding")
    assert accepted.chain == BARE


def test_boxes_are_compared_with_three_decimals_on_both_sides():
    assert isinstance(check(GOOD.replace("[0.6, 0.1, 0.9", "[0.6, 0.1, 0.9004"), ASKED, ROW), Accepted)
    finer = (ASKED[0], (ASKED[1][0], Region((0.6, 0.1, 0.9004, 0.5), 0.35)), ASKED[2])
    assert isinstance(check(GOOD, finer, ROW), Accepted)


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        (
            "I cannot help.",
            "malformed",
            "the output is not one <think> block and one <answer> in three backticks",
        ),
        (f"{BARE}\n{BARE}", "areas", "3 areas were asked for, in the given order; found 6"),
        (
            reply([regions_json(s[:1]) for s in ASKED]),
            "boxes",
            f"area 2 has 1 boxes, asked was {regions_json(ASKED[1])}",
        ),
        (
            GOOD.replace("[0.2, 0.2, 0.4, 0.4]", "[0.2, 0.2, 0.4, 0.402]"),
            "boxes",
            f"area 3 has the box [0.2, 0.2, 0.4, 0.402], asked was {regions_json(ASKED[2])}",
        ),
        (
            GOOD.replace("0.512", "0.515"),
            "depths",
            f"area 1 has the depth 0.515, asked was {regions_json(ASKED[0])}",
        ),
        (
            reply(texts=("a", "b <|im_end|>", "c")),
            "special-token",
            "text 2 holds '<|im_end|>'; write plain text",
        ),
        (reply(answer="red <|im_end|>"), "special-token", "the answer holds '<|im_end|>'; write plain text"),
        (
            reply(texts=("As instructed, I look.", "b", "c")),
            "leak",
            "text 1 says 'As instructed'; write only what is seen and thought",
        ),
        (
            reply(texts=("a", EXAMPLE, "c")),
            "copied",
            "text 2 is the example's; write about this image",
        ),
        (
            reply(texts=("One.", "one", "Two.")),
            "repeated",
            "two of the texts are the same; say what each region shows",
        ),
    ],
)
def test_the_reason_that_the_model_is_shown_says_what_and_where(text, kind, reason):
    assert check(text, ASKED, ROW) == Refused(kind, reason)


def test_a_wrong_number_is_refused_with_both_answers():
    row = dataclasses.replace(ROW, answer="3")
    assert check(reply(answer="4"), ASKED, row) == Refused("answer", "the answer '4' does not say '3'")


def test_an_answer_with_a_second_number_is_left_to_the_judge():
    row = dataclasses.replace(ROW, answer="two")
    accepted = check(reply(answer="There are two dogs next to one car."), ASKED, row)
    assert isinstance(accepted, Accepted) and not accepted.agrees
