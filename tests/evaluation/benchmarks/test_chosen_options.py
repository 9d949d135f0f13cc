"""Which option a reply chooses, against a person's reading of it, and which it only compares or rejects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.evaluation.benchmarks import replies
from sifthinker.evaluation.benchmarks.question import Question
from tests.evaluation.benchmarks.test_replies import COLOUR, COUNT, ROOM, SIDE, YES

DOG = (("A", "The color of the dog is black."), ("B", "The color of the dog is white."))
BROOM = (
    ("A", "The broom is on the left side of the chair."),
    ("B", "The broom is on the right side of the chair."),
)
CAR = (("A", "blue bus"), ("B", "red car"))
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


def test_options_are_found_in_one_line_and_in_several():
    lines = "What is it?\n(A) rubber\n(B) dark red cotton\nAnswer with the option's letter from the given choices directly."
    assert replies.options_in(lines) == (("A", "rubber"), ("B", "dark red cotton"))
    line = "Is it near? (A) Yes (B) No. Answer with the option's letter from the given choices directly."
    assert replies.options_in(line) == (("A", "Yes"), ("B", "No"))
    assert replies.options_in("How many cars are there?") == ()


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
