"""A reply in an option's own words is that option, whatever these words deny or doubt."""

import pytest

from sifthinker.evaluation.benchmarks import replies

TEXTS = [
    ("can swim", "can't swim"),
    ("moved", "didn't move"),
    ("The man is wearing a hat", "The man isn't wearing a hat"),
    ("He is happy.", "He isn’t happy."),
    ("There are people in the image", "There aren't any people in the image"),
    ("red", "It cannot be determined"),
    ("red", "It's not clear from the image"),
    ("red", "Not enough information"),
    ("Yes, he can", "No, he can't"),
    ("cup_2", "cup_1"),
    ("x³", "x²"),
    ("O₂", "CO₂"),
    ("$4", "$5"),
    ("The animal's tail", "It's a bird's wing"),
    ("左边", "不在左边"),
    ("有狗", "沒有狗"),
]


def read(reply: str, texts: tuple[str, ...], letters: str = "AB", asked: str = "") -> str:
    """The letter (the text where none is shown) of the option that is chosen, or why none is."""
    options = tuple(zip(letters or [""] * len(texts), texts, strict=True))
    found = replies.choice(reply, options, asked)
    return found.problem or options[int(found.value)][0] or options[int(found.value)][1]


@pytest.mark.parametrize("texts", TEXTS)
@pytest.mark.parametrize(
    "dress", ["{}", "B. {}", "B) {}", "(B) {}", "B: {}", "**{}**", "The answer is (B) {}"]
)
def test_an_options_own_words_choose_it(texts: tuple[str, str], dress: str) -> None:
    for mark, text in zip("AB", texts, strict=True):
        assert (
            read(dress.format(text).replace("B", mark) if "B" in dress else dress.format(text), texts) == mark
        )


@pytest.mark.parametrize("texts", TEXTS)
def test_nor_do_they_need_a_letter(texts: tuple[str, str]) -> None:
    assert [read(text, texts, "") for text in texts] == list(texts)


@pytest.mark.parametrize(
    ("reply", "texts", "expected"),
    [
        ("It can't swim", TEXTS[0], "B"),
        ("The camera didn't move.", ("moved left", "didn't move"), "B"),
        ("It cannot be determined from the image", TEXTS[5], "B"),
        ("I cannot tell", ("red", "blue"), "refused"),  # no option says so
        ("It may be red", ("red", "blue"), "doubt"),
        ("(A) can't swim", TEXTS[0], "contradictory"),  # another option's words
        ("A man", ("dog", "man"), "B"),  # an article, and no letter
        ("(A) man", ("dog", "man"), "contradictory"),
    ],
)
def test_words_around_them_count_as_before(reply: str, texts: tuple[str, str], expected: str) -> None:
    assert read(reply, texts) == expected


CLOSER = "Which object is closer to the camera, the lamp or the chair?"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("The chair is farther from the camera.", "none-named"),
        ("The chair is farther away, so the lamp is closer.", "A"),
        ("Chair is farther, so lamp", "A"),
        ("The chair is farther away. The lamp is closer.", "A"),
        ("The chair, which is farther, is not closer.", "none-named"),
        ("The answer is the lamp, the chair is farther.", "several-named"),
    ],
)
def test_what_is_called_the_contrary_is_not_chosen(reply: str, expected: str) -> None:
    assert read(reply, ("lamp", "chair"), asked=CLOSER) == expected


@pytest.mark.parametrize("reply", ["不应该选A", "不属于A", "不在左边", "并不在左边", "沒有在左边"])
def test_what_is_denied_in_chinese_is_not_chosen(reply: str) -> None:
    assert read(reply, ("左边", "右边")) == "contradictory"
    assert read(f"{reply},在右边", ("左边", "右边")) == "B"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        *[(reply, "no") for reply in ("沒有", "沒有狗", "圖中沒有狗", "並沒有", "不,沒有", "看不見狗,沒有")],
        *[(reply, "yes") for reply in ("有", "圖中有一隻狗", "有一隻狗")],
        # Japanese: neither
        *[
            (reply, "")
            for reply in ("存在しません", "犬は存在しません。", "はい、犬が存在します", "犬がいます")
        ],
    ],
)
def test_a_denial_in_traditional_characters_is_one_and_japanese_is_no_chinese(
    reply: str, expected: str
) -> None:
    assert replies.yes_no(reply, "Is there a dog in the image?").value == expected
