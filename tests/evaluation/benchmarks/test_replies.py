"""What replies say, against a person's reading of each."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.evaluation.benchmarks import counts, replies
from sifthinker.evaluation.benchmarks.question import Question

SIDE = (("A", "left"), ("B", "right"))
COLOUR = (("A", "red"), ("B", "green"), ("C", "blue"), ("D", "dark blue"))
DOG = (("A", "The color of the dog is black."), ("B", "The color of the dog is white."))
BROOM = (
    ("A", "The broom is on the left side of the chair."),
    ("B", "The broom is on the right side of the chair."),
)
COUNT = (("A", "3"), ("B", "2"), ("C", "10"), ("D", "1"))
YES = (("A", "Yes"), ("B", "No"))
CAR = (("A", "blue bus"), ("B", "red car"))
ROOM = (("", "to my left"), ("", "to my right"), ("", "straight ahead"))

CHOICES = [
    # the letter alone, in every dress
    ("A", SIDE, "A"),
    ("b", SIDE, "B"),
    ("(B)", SIDE, "B"),
    ("(b)", SIDE, "B"),
    ("B.", SIDE, "B"),
    ("B)", SIDE, "B"),
    ("[B]", SIDE, "B"),
    ("**B**", SIDE, "B"),
    ("$\\boxed{B}$", SIDE, "B"),
    ("\n B \n", SIDE, "B"),
    ('"A"', SIDE, "A"),
    ("B:", SIDE, "B"),
    # a letter that is no option
    ("C", SIDE, None),
    ("(E)", COLOUR, None),
    # letter and text that agree
    ("B. right", SIDE, "B"),
    ("(B) right", SIDE, "B"),
    ("B: right", SIDE, "B"),
    ("B right", SIDE, "B"),
    ("b) right", SIDE, "B"),
    ("B - right", SIDE, "B"),
    ("A left", SIDE, "A"),
    ("Option B: right", SIDE, "B"),
    ("(D) dark blue", COLOUR, "D"),
    ("(A) The color of the dog is black.", DOG, "A"),
    # letter and text that contradict
    ("B. left", SIDE, None),
    ("(A) right", SIDE, None),
    ("The answer is B, left.", SIDE, None),
    # the text alone
    ("left", SIDE, "A"),
    ("Left.", SIDE, "A"),
    ("LEFT", SIDE, "A"),
    ("the left", SIDE, "A"),
    ("It is on the left.", SIDE, "A"),
    ("on the right side", SIDE, "B"),
    ("The car is to the right of the tree.", SIDE, "B"),
    ("dark blue", COLOUR, "D"),  # the longer option, not the shorter inside it
    ("The coat is dark blue.", COLOUR, "D"),
    ("blue", COLOUR, "C"),
    ("It looks light-blue to me", COLOUR, "C"),
    ("The color of the dog is black.", DOG, "A"),
    ("the color of the dog is white", DOG, "B"),
    # a part of the text that only one option has
    ("black", DOG, "A"),
    ("The dog is white.", DOG, "B"),
    ("It is on the left side", BROOM, "A"),
    ("right side", BROOM, "B"),
    ("The dog", DOG, None),  # both have it
    ("It is brown.", DOG, None),
    # sentences around the letter
    ("The answer is B.", SIDE, "B"),
    ("The answer is (B).", SIDE, "B"),
    ("The answer is b", SIDE, "B"),
    ("The answer is left", SIDE, "A"),
    ("Answer: B", SIDE, "B"),
    ("Answer: (B) right", SIDE, "B"),
    ("answer:b", SIDE, "B"),
    ("The correct answer is A.", SIDE, "A"),
    ("The correct option is A", SIDE, "A"),
    ("My choice would be B.", SIDE, "B"),
    ("I choose option B.", SIDE, "B"),
    ("I think it is A.", SIDE, "A"),
    ("Based on the image, the best answer is C.", COLOUR, "C"),
    ("B, because the lamp stands on that side", SIDE, "B"),
    ("B is correct.", SIDE, "B"),
    ("A is correct.", SIDE, "A"),
    ("So the answer is **(A)**.", SIDE, "A"),
    # the article is no letter
    ("A red car", CAR, "B"),
    ("A red one", COLOUR, "A"),
    ("It is a green one.", COLOUR, "B"),
    ("The answer is a red car.", CAR, "B"),
    ("A dog", COLOUR, None),
    ("I see a cat", SIDE, None),
    # weighing, then concluding
    ("The car is left of the bus, which is right, so the answer is A.", SIDE, "A"),
    ("It might be red, but on a second look the answer is green.", COLOUR, "B"),
    ("The red car and the blue car are far. Therefore, green.", COLOUR, "B"),
    ("(A) is wrong since the light is on. The answer is (B).", SIDE, "B"),
    ("The answer is A. No, the answer is B.", SIDE, None),
    # denial
    ("not left", SIDE, None),
    ("It is not on the left but on the right.", SIDE, "B"),
    ("right, not left", SIDE, "B"),
    ("B, not A", SIDE, "B"),
    ("It isn't red, it is green.", COLOUR, "B"),
    ("right instead of left", SIDE, "B"),
    ("neither left nor right", SIDE, None),
    ("Not (A).", SIDE, None),
    # two answers
    ("A or B", SIDE, None),
    ("A and B", SIDE, None),
    ("left or right", SIDE, None),
    ("(A) or (B)", SIDE, None),
    ("A, B", SIDE, None),
    ("Both left and right", SIDE, None),
    ("red and green", COLOUR, None),
    ("A. left B. right", SIDE, None),
    # a letter whose sentence mentions the other option too
    ("(B) to the right of the left lamp", SIDE, "B"),
    # doubt
    ("I cannot determine whether it is left.", SIDE, None),
    ("It is unclear if it is red", COLOUR, None),
    ("I'm not sure, but I think B.", SIDE, "B"),
    ("Unable to answer.", SIDE, None),
    # numbers
    ("3", COUNT, "A"),
    ("three", COUNT, "A"),
    ("There are two of them.", COUNT, "B"),
    ("10", COUNT, "C"),  # not the 1 inside it
    ("There are 12.", COUNT, None),
    ("2 or 3", COUNT, None),
    ("The answer is 10.", COUNT, "C"),
    ("D", COUNT, "D"),
    # yes and no as options
    ("Yes", YES, "A"),
    ("No, it is behind the sofa.", YES, "B"),
    ("yes and no", YES, None),
    ("Not sure", YES, None),
    # options without letters
    ("to my left", ROOM, 0),
    ("To my left.", ROOM, 0),
    ("It is straight ahead of me", ROOM, 2),
    ("left", ROOM, 0),
    ("A", ROOM, None),
    ("to my left or to my right", ROOM, None),
    # nothing
    ("", SIDE, None),
    ("   ", SIDE, None),
    ("...", SIDE, None),
    ("I do not understand the question.", SIDE, None),
]


CLOSER = "Which object is closer to the camera, the chair or the lamp? (A) chair (B) lamp"
FARTHER = CLOSER.replace("closer to", "farther from")
SEATED = (("A", "chair"), ("B", "lamp"))
# A reply, what is asked, and the option that is chosen.
COMPARED = [
    ("The lamp is closer to the camera than the chair.", CLOSER, "B"),
    ("The lamp (blue box) is closer than the chair (red box).", CLOSER, "B"),
    ("The lamp is nearer, with a depth of 0.312 against 0.541 for the chair.", CLOSER, "B"),
    ("The lamp is closer, while the chair is farther away.", CLOSER, "B"),
    ("Compared with the room, the lamp is closer compared to the chair.", CLOSER, "B"),
    ("The chair is further from the camera than the lamp.", FARTHER, "A"),
    # otherwise than the question does, in another order, or of both
    ("The chair is farther away than the lamp.", CLOSER, None),
    ("The lamp is closer than the chair.", FARTHER, None),
    ("Closer than the chair is the lamp.", CLOSER, None),
    ("The lamp is not closer than the chair.", CLOSER, None),
    ("The lamp is close, while the chair is closer.", CLOSER, None),
    ("The lamp and the chair are closer than the sofa.", CLOSER, None),
    ("The lamp is closer, but the chair is closer still.", CLOSER, None),
    ("The lamp is closer than the chair. The chair is closer than the lamp.", CLOSER, None),
    ("The lamp is closer than the chair.", "Which is it? (A) chair (B) lamp", None),
    ("The lamp is closer than the chair.", "Is the lamp closer or farther? (A) chair (B) lamp", None),
]


@pytest.mark.parametrize(("text", "asked", "expected"), COMPARED)
def test_what_the_chosen_option_is_compared_with_is_not_chosen_too(text, asked, expected):
    read = replies.choice(text, SEATED, asked)
    if expected is None:
        assert read.value == "" and read.problem in ("several-named", "contradictory")
    else:
        assert read == (str("AB".index(expected)), "")


def test_the_strict_verdict_knows_what_was_asked():
    question = Question("1", "g", CLOSER, "a.jpg", "B", SEATED)
    answer = replies.Answer("The lamp is closer to the camera than the chair.", (), ())
    assert replies.judged_choice(question, answer).score == 1.0


@pytest.mark.parametrize(("text", "options", "expected"), CHOICES)
def test_a_reply_names_the_option_that_a_person_reads_in_it(text, options, expected):
    read = replies.choice(text, options)
    if expected is None:
        assert read.value == "" and read.problem, read
    else:
        index = expected if isinstance(expected, int) else [letter for letter, _ in options].index(expected)
        assert read == (str(index), "")


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


def test_options_are_found_in_one_line_and_in_several():
    lines = "What is it?\n(A) rubber\n(B) dark red cotton\nAnswer with the option's letter from the given choices directly."
    assert replies.options_in(lines) == (("A", "rubber"), ("B", "dark red cotton"))
    line = "Is it near? (A) Yes (B) No. Answer with the option's letter from the given choices directly."
    assert replies.options_in(line) == (("A", "Yes"), ("B", "No"))
    assert replies.options_in("How many cars are there?") == ()


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


LETTERS = "ABCD"
REJECTIONS = (
    "{b}. So {a} is wrong.",
    "{b}\n\nExplanation: it stands there, so {a} is wrong.",
    "{b}, because {a} is incorrect.",
    "{b}. Option {a} can be excluded.",
    "{b}, not {a}",
    "{a} is wrong, so {b}.",
    "{a} can be ruled out. The answer is {b}.",
    "It can't be {a}. It must be {b}.",
    "The answer is {b} rather than {a}.",
    "Unlike {a}, {b} fits.",
    "Not {a} but {b}",
    "{a} is the wrong choice. {b}",
    "{a} is partly right, but {b} is fully correct.",
    "I don't think it's {a}; the answer is {b}.",
    "{a}是错误的，选{b}",
    "答案是{b}，而不是{a}。",
)


@given(st.permutations(LETTERS), st.sampled_from(REJECTIONS))
def test_a_rejected_option_is_never_chosen(letters, wording):
    a, b, *_ = letters
    read = replies.choice(wording.format(a=a, b=b), COLOUR)
    assert read == (str(LETTERS.index(b)), "")


@pytest.mark.parametrize(
    "wording",
    [
        "{a} is the wrong answer.",
        "Option {a} is an incorrect one",
        "{a} is less likely",
        "{a} is a distractor",
        "Wrong answer: {a}",
        "Wrong: {a}",
        "The distractor is {a}",
        "Anything but {a}",
        "I don't think it's {a}",
        "I doubt it is {a}",
        "It is anything but {text}",
        "{text} is the wrong color",
    ],
)
def test_an_option_that_is_only_rejected_is_no_answer(wording):
    for letter, text in COLOUR:
        assert replies.choice(wording.format(a=letter, text=text), COLOUR).value == "", letter


@pytest.mark.parametrize(
    "wording",
    [
        "No doubt it is {a}",
        "Without a doubt, {a}",
        "I have little doubt that it is {a}",
        "It is beyond doubt {a}",
        "Beyond reasonable doubt {a}",
        "I don't think so. {a}",
    ],
)
def test_what_only_sounds_like_a_rejection_is_none(wording):
    for index, (letter, _) in enumerate(COLOUR):
        assert replies.choice(wording.format(a=letter), COLOUR).value == str(index)


@given(
    st.permutations(LETTERS),
    st.sampled_from(("{a}/{b}", "{a} or {b}", "{a}, {b}", "{a} and {b}", "{a}或{b}", "({a}) or ({b})")),
)
def test_two_options_are_none(letters, wording):
    assert replies.choice(wording.format(a=letters[0], b=letters[1]), COLOUR).problem == "several-named"


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
