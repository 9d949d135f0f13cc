"""What replies say, against a person's reading of each: yes or no, numbers, refusals; test_chosen_options.py has the options."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.evaluation.benchmarks import counts, replies

SIDE = (("A", "left"), ("B", "right"))
COLOUR = (("A", "red"), ("B", "green"), ("C", "blue"), ("D", "dark blue"))
COUNT = (("A", "3"), ("B", "2"), ("C", "10"), ("D", "1"))
YES = (("A", "Yes"), ("B", "No"))
ROOM = (("", "to my left"), ("", "to my right"), ("", "straight ahead"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes", "yes"),
        ("yes.", "yes"),
        ("YES!", "yes"),
        ("No", "no"),
        ("**No**, there is not.", "no"),
        ("Yes, there is a dog behind the car.", "yes"),
        ("There is no dog in the image.", "no"),
        ("No, I cannot see one.", "no"),
        ("It is not there.", "no"),  # a denial without the word
        ("There isn't a dog.", "no"),
        ("The answer is yes.", "yes"),
        ("The answer is no, although yes comes to mind.", "no"),
        ("Yeah", "yes"),
        ("Yes, it is not far.", "yes"),
        ("Not sure", ""),  # not a "no"
        ("I know nothing", ""),  # "no" only inside words
        ("I cannot tell, maybe yes.", ""),
        ("Yes and no", ""),
        ("No. Yes.", ""),
        ("A dog", ""),
        ("", ""),
    ],
)
def test_a_reply_says_yes_or_no_only_when_a_person_reads_it_so(text, expected):
    read = replies.yes_no(text)
    assert read.value == expected
    assert bool(read.problem) == (not expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", "3"),
        ("3.", "3"),
        ("10", "10"),
        ("1,000", "1000"),
        ("three", "3"),
        ("Three cars", "3"),
        ("There are 2 cars.", "2"),
        ("twenty-one", "21"),
        ("twenty one people", "21"),
        ("two (2)", "2"),
        ("The answer is 4.", "4"),
        ("3 cars and 2 trucks, so 5", "5"),
        ("There are 3 cars and 2 trucks, 5 in total.", ""),  # three numbers, none set off
        ("Three, one of them red", "3"),
        ("none", "0"),
        ("There are no cars.", "0"),
        ("zero", "0"),
        ("-2", "-2"),
        ("2 or 3", ""),
        ("between 3 and 5", ""),
        ("several", ""),
        ("I cannot tell.", ""),
        ("B2", ""),
        ("", ""),
    ],
)
def test_a_reply_gives_the_number_that_a_person_reads_in_it(text, expected):
    assert replies.number(text).value == expected


OBJECTS = ("dog", "traffic light", "pair of skis", "man in a hat")
# A denial and its mirror, with the place of the asked thing.
MIRRORED = [
    ("There is no {x} in the image.", "There is a {x} in the image."),
    ("There isn't a {x}.", "There's a {x}."),
    ("There is not a single {x} in this picture.", "There is a single {x} in this picture."),
    ("No {x} is visible.", "A {x} is visible."),
    ("A {x} is not visible here.", "A {x} is visible here."),
    ("I don't see a {x}.", "I see a {x}."),
    ("I do not see a {x} anywhere.", "I do see a {x} there."),
    ("I can't see a {x}.", "I can see a {x}."),
    ("I cannot see any {x} in the picture.", "I can see a {x} in the picture."),
    ("We could not find a {x}.", "We could find a {x}."),
    ("The {x} is not there.", "The {x} is there."),
    ("The {x} is absent.", "The {x} is present."),
    ("The {x} isn't present.", "The {x} is present."),
    ("It is not there.", "It is there."),
    ("It isn't.", "It is."),
    ("It does not.", "It does."),
    ("There is not.", "There is."),
    ("I don't think there is a {x}.", "I think there is a {x}."),
    ("I don't think so.", "I think so."),
    ("It is not true that there is a {x}.", "It is true that there is a {x}."),
    ("It is false that there is a {x}.", "It is true that there is a {x}."),
    ("It does not seem that there is a {x}.", "It seems that there is a {x}."),
    ("That is not correct.", "That is correct."),
    ("That's false.", "That's true."),
    ("This is incorrect.", "This is correct."),
    ("No", "Yes"),
    ("N", "Y"),
    ("False", "True"),
    ("Incorrect", "Correct"),
    ("Nope", "Yep"),
    ("Absolutely not", "Absolutely"),
    ("Certainly not", "Certainly"),
    ("Definitely not", "Definitely"),
    ("Of course not", "Of course"),
    ("Negative", "Affirmative"),
    ("I disagree", "I agree"),
    ("No, there is no {x}.", "Yes, there is a {x}."),
    ("No, there is not a {x} in the image.", "Yes, there is a {x} in the image."),
    ("No, it is not.", "Yes, it is."),
    ("The answer is no.", "The answer is yes."),
    ("没有", "有"),
    ("不是", "是"),
    ("不对", "对"),
    ("不存在", "存在"),
    ("图中没有。", "图中有。"),
]
BEFORE = ("", "", "Looking at the picture: ", "In this image, ", "**Answer:** ", "Well, ")
AFTER = ("", "", "\n", " ", "\n\nI hope this helps!")
DRESS = ("{}", "{}", "**{}**", "{} ", "<answer>{}</answer>", '"{}"')


@given(
    st.sampled_from(MIRRORED), st.sampled_from(OBJECTS), st.sampled_from(BEFORE), st.sampled_from(AFTER),
    st.sampled_from(DRESS), st.booleans(),
)  # fmt: skip
def test_a_denial_and_its_mirrored_affirmation_are_both_read(pair, thing, before, after, dress, known):
    question = f"Is there a {thing} in the image?\nAnswer the question using a single word or phrase."
    for text, expected in zip(pair, ("no", "yes"), strict=True):
        text = text.format(x=thing)
        text = before + (text if not before or len(text.split()) > 2 else text.rstrip("."))
        reply = dress.format(text) + after
        assert replies.yes_no(reply, question if known else "") == (expected, ""), reply


@given(
    st.sampled_from(MIRRORED),
    st.sampled_from(("dog", "cat")),
    st.sampled_from(("I cannot tell. ", "I'm sorry, ")),
)
def test_what_speaks_of_something_else_neither_affirms_nor_denies(pair, thing, _):
    question = "Is there a snowboard in the image?"
    for text in pair:
        if "{x}" in text and not text.startswith(("No, ", "Yes, ")):
            assert replies.yes_no(text.format(x=thing), question).value == "", text


REFUSALS = {
    "no-picture": (
        "No image was provided.",
        "I can't view images.",
        "I don't see any image attached to your message.",
        "The image did not load, so I cannot help.",
        "There is no picture attached.",
        "Please upload the image.",
        "I see no image.",
        "[no image]",
        "Image not found",
        "看不到图",
        "As an AI, I cannot see the picture.",
        "没有提供图片",
    ),
    "refused": (
        "Not enough information",
        "I have no idea",
        "I don't know.",
        "I'm sorry, but I can't assist with that.",
        "It cannot be determined from what is shown.",
        "I'm unable to answer this question.",
        "无法判断",
    ),
}


@pytest.mark.parametrize(("problem", "text"), [(p, text) for p, texts in REFUSALS.items() for text in texts])
def test_a_refusal_is_no_answer_whatever_is_asked(problem, text):
    for read in (
        replies.yes_no(text, "Is there a dog in the image?"),
        replies.number(text, "How many dogs are there?"),
        replies.choice(text, SIDE),
        replies.choice(text, YES),
        replies.choice(text, COUNT),
        replies.choice(text, ROOM),
    ):
        assert read == ("", problem)


def test_a_picture_in_the_scene_is_not_the_picture_that_was_sent():
    question = "Is there a picture on the wall?"
    assert replies.yes_no("There is no picture on the wall.", question).value == "no"
    assert replies.yes_no("I see no picture of a dog.", "Is there a picture of a dog?").value == "no"
    assert replies.yes_no("I don't see any picture on the wall.", question).value == "no"
    assert replies.yes_no("There is a picture on the wall.", question).value == "yes"


@given(st.integers(0, 99_999))
def test_a_number_is_read_in_digits_and_in_words(value):
    assert replies.number(f"There are {value} of them.").value == str(value)
    assert replies.number(f"{value:,}").value == str(value)
    assert replies.number(f"There are {spelt(value)} dogs.").value == str(value), spelt(value)
    assert replies.number(f"more than {spelt(value)}").value == ""


@pytest.mark.parametrize(
    "piece",
    ["A, B, C, D, ", "one two three ", "hundred and ", "thousand ", "not ", "\\boxed{", "不是A", "{", "9"],
)
def test_babble_is_read_without_error_and_in_time(piece):
    text = piece * (20_000 // len(piece))
    start = time.monotonic()
    for read in (replies.choice(text, COLOUR), replies.yes_no(text, "Is there a dog?"), replies.number(text)):
        assert bool(read.value) != bool(read.problem)
    assert time.monotonic() - start < 20


def test_a_long_reply_is_read_at_its_beginning_and_its_end():
    reasons = "The lamp stands on the table and the book lies under it. " * 200
    assert replies.choice(f"{reasons}\nThe answer is B.", SIDE).value == "1"
    assert replies.choice(f"B\n\n{reasons}", SIDE).value == "1"


def spelt(value: int) -> str:
    small = [*counts.WORDS][:20]
    tens = [*counts.WORDS][20:]
    if value < 20:
        return small[value]
    if value < 100:
        return tens[value // 10 - 2] + (f"-{small[value % 10]}" if value % 10 else "")
    for name, scale in (("thousand", 1000), ("hundred", 100)):
        if value >= scale:
            rest = value % scale
            between = " and " if rest and rest < 100 else " "
            return f"{spelt(value // scale)} {name}" + (between + spelt(rest) if rest else "")
    raise AssertionError


CHAIN = (
    '<think><area>[{"bbox_2d": [0, 0, 1, 1], "depth": 0.5}]</area><text>A (B) C.</text>'
    '<area>[{"bbox_2d": [0.1, 0.2, 0.3, 0.4], "depth": 0.1}]</area><text>x</text></think><answer>left</answer>'
)


@pytest.mark.parametrize(
    ("reply", "think", "text", "boxes", "absent"),
    [
        (CHAIN, True, "left", 1, ""),
        (CHAIN, False, "left", 1, ""),  # asked plainly, answered with a chain all the same
        (CHAIN.replace("0.3,", "0.05,"), True, "left", 0, ""),  # x2 < x1: no box, the answer stands
        (CHAIN.replace("[0, 0, 1, 1]", "[oops]"), True, "left", 1, ""),  # an earlier area does not matter
        (CHAIN.replace("<answer>left</answer>", ""), True, "", 1, "no-answer"),
        (CHAIN + "<answer>right</answer>", True, "", 1, "no-answer"),  # two answers are none
        ("left", True, "", 0, "no-answer"),
        ("left", False, "left", 0, ""),
        ("It is at [0.1, 0.2, 0.3, 0.4].", False, "It is at [0.1, 0.2, 0.3, 0.4].", 1, ""),
        ("It is at [10, 20, 30, 40].", False, "It is at [10, 20, 30, 40].", 0, ""),
        ("", True, "", 0, "no-answer"),
    ],
)
def test_the_answer_block_and_the_last_area_are_what_is_scored(reply, think, text, boxes, absent):
    answer = replies.read(reply, think)
    assert (answer.text, len(answer.boxes), answer.absent) == (text, boxes, absent)


def test_a_reply_cut_off_before_its_answer_says_so():
    assert replies.read("<think><area>", True, "length").absent == "cut-off"


@given(st.text(alphabet="AaBb ().:,notliefghrswr0123'\n", max_size=60))
def test_any_text_is_read_without_error_and_never_as_two_things(text):
    for read in (
        replies.choice(text, SIDE),
        replies.choice(text, COUNT),
        replies.yes_no(text),
        replies.number(text),
    ):
        assert bool(read.value) != bool(read.problem)
