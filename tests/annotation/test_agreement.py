"""When two answers say the same, when they do not, and when only a judge can tell."""

import pytest

from sifthinker.annotation.agreement import agrees, names, only_says, plain


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("red", "Red.", True),  # case and punctuation
        ("a red coat", "The coat is red", None),  # for a judge
        ("2 cats", "2 dogs", None),  # not a number alone
        ("A", "(a)", True),  # a letter of a choice
        ("B", "B. left", None),
        ("left", "right", None),
        ("3", "3", True),
        ("3", "three", True),
        ("three", "There are 3 of them.", True),
        ("one", "There is one dog.", True),
        ("1000", "1,000", True),
        ("2", "2.0", True),
        ("-3", "-3 degrees", True),
        ("1.5", "1.5 m", True),
        ("5", "There are 5 dogs on a bench.", True),
        ("3", "13", False),  # not a substring
        ("3", "There are 4 dogs.", False),
        ("3", "3 or 4", False),  # a choice of two is no answer
        ("3", "one to three", False),
        ("3", "3-4 cars", False),
        ("3", "1-3", False),  # a range, no negative number
        ("20", "twenty-one", False),
    ],
)
def test_the_only_number_of_an_answer_counts(reference, answer, verdict):
    assert agrees(reference, answer) is verdict


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        # more than one number: which is meant depends on the question
        ("two", "There are two dogs next to one car."),
        ("3", "There are 3 cars; 2 are red."),
        ("1", "One of the 3 dogs is brown."),
        ("4", "2 on the left and 2 on the right"),
        ("2", "2 on the left and 2 on the right"),
        ("2", "3 - 1 = 2"),
        # a number that is not named, or not worked out here
        ("3", "2 dogs and a cat"),
        ("1", "A dog beside 2 cats"),
        ("0", "none"),
        ("0", "There are no dogs, but 2 cats."),
        ("2", "Both players wear the number 7."),
        ("4", "2 on each side"),
        ("6", "3 pairs"),
        ("3", "3 pairs"),
        ("12", "a dozen"),
        ("1", "one hundred"),
        ("21", "twenty-one"),
        ("30", "thirty"),
        ("3", "many"),
        ("2", "two and a half"),
        # a number that counts nothing
        ("1", "The one on the left."),
        ("1", "no one"),
        ("2", "a two-story house"),
        ("3", "the 3rd"),
        ("3", "an mp3 player"),
        # bounds, doubts and denials
        ("3", "more than 3"),
        ("3", "3+"),
        ("3", "3 or more"),
        ("3", "about 3"),
        ("3", "maybe 3"),
        ("4", "not 3"),
        ("3", "There aren't 3 dogs."),
        ("3", "3 more dogs"),
        # another unit
        ("1.5", "150 cm"),
        ("0.5", "50 %"),
        ("1,5", "1.5"),
    ],
)
def test_a_judge_tells_where_a_number_is_not_alone(reference, answer):
    assert agrees(reference, answer) is None


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("yes", "Yes.", True),
        ("yes", "Yes, it is.", True),
        ("yes", "yes, certainly yes", True),
        ("no", "The answer is no.", True),
        ("no", "No, it is not.", True),
        ("no", "No it isn't", True),
        ("no", "No\N{EM DASH}it is off", True),
        ("yes", "no", False),
        ("yes", "No, there is a cat.", False),
        ("no", "Yes, there is.", False),
        ("no", "yes and no", False),  # both are no answer
        ("yes", "yes/no", False),
        # only the question says what these mean
        ("yes", "Yes, there is no other dog.", None),
        ("no", "Yes, there is no dog.", None),
        ("yes", "Yes, it is not there.", None),
        ("no", "No, it isn't. Yes, it is off.", None),
        ("no", "There is no dog.", None),
        ("no", "There is no doubt that it is.", None),  # affirms
        ("yes", "There is no doubt that it is.", None),
        ("yes", "No. 5 is red.", None),
        ("no", "It is not.", None),
        ("yes", "It is.", None),
        ("no", "nobody", None),
        ("yes", "perhaps", None),
        ("yes", "maybe, yes", None),
        ("yes", "correct", None),
    ],
)
def test_a_yes_or_a_no_counts_where_it_stands_for_itself(reference, answer, verdict):
    assert agrees(reference, answer) is verdict


@pytest.mark.parametrize(
    ("reference", "answer", "held"),
    [
        ("3", "There are three cars; two are red.", True),
        ("3", "13 and 5", False),
        ("one", "none", False),
        ("no", "nothing", False),
        ("yes", "Yes, there is no other dog.", True),
        ("red", "It is red", None),
    ],
)
def test_an_answer_holds_a_number_or_a_word_as_a_whole(reference, answer, held):
    assert names(reference, answer) is held


@pytest.mark.parametrize(
    ("reference", "answer", "says"),
    [
        ("two", "There are two dogs next to one car.", False),
        ("3", "There are 3 cars; 2 are red.", False),
        ("yes", "Yes, there is no other dog.", False),
        ("no", "There is no doubt that it is.", True),
        ("3", "more than 3", True),
        ("3", "3, one of them red", True),  # in words only where there are none in digits
        ("1000", "1,000", False),
        ("red", "The coat is red", False),
        ("red", "Red.", True),
    ],
)
def test_the_rule_of_the_benchmark_is_what_it_was(reference, answer, says):
    assert only_says(reference, answer) is says


def test_a_plain_text_has_no_case_no_width_no_space_and_no_marks_at_its_ends():
    assert plain(" (\u201cThe  \uff32ed\n coat.\u201d) ") == "\u201cthe red coat.\u201d"
    assert plain("'\"`Max x,;:!?") == "max x"
