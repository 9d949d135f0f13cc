"""Texts that hold special tokens, tags or control characters: found, and rejected or refused before they are paid for."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.annotation import acceptance
from sifthinker.config import Source
from sifthinker.core import chain, special_tokens
from sifthinker.core.records import Region, Reject, Sample
from sifthinker.data.sources import SOURCES, fields

TOKENS = [
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|vision_start|>", "<|vision_end|>"),  # Qwen
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<|object_ref_start|>", "<|box_start|>"),
    *("<|quad_end|>", "<|file_sep|>", "<tool_call>", "</tool_response>"),
    *("<image>", "<s>", "</s>", "<unk>", "<pad>", "[INST]", "[/INST]", "<<SYS>>"),  # LLaVA, Llama 2
    *("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|reserved_special_token_250|>"),  # Llama 3
    *(
        "<start_of_turn>",
        "<end_of_turn>",
        "<start_of_image>",
        "<image_soft_token>",
        "<bos>",
        "<eos>",
    ),  # Gemma 3
    *("<|image>", "<image|>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"),  # Gemma 4
    *("<IMG_CONTEXT>", "<img>", "</img>", "<ref>", "</box>"),  # InternVL
    *(
        "<fake_token_around_image>",
        "<global-img>",
        "<row_1_col_6>",
        "<end_of_utterance>",
    ),  # SmolVLM, Idefics3
    *("<loc0123>", "<seg007>", "<unused42>"),  # PaliGemma, Gemma
    *("[IMG]", "[IMG_END]", "<｜begin▁of▁sentence｜>", "<|a_word_of_no_family|>"),
    *("\0", "\x1b", "\x7f", "\x9d"),
]
PLAIN = [
    *(
        "Is 3 < 5 and 7 > 4?",
        "a|b",
        "|x| < |y|",
        "What does f(x) = [x] mean?",
        "tab\tand\nline",
        "a <- b -> c",
    ),
    *(
        "你好，这是什么？",
        "naïve café",
        "<3",
        "2<x|y>3",
        "[1, 2]",
        "x << 2 >> y",
        "image",
        "the <b>bold</b> one",
    ),
]
ROW = {"question": "How many cups?", "answer": "1", "image": "a.jpg", "width": 100, "height": 80}


def read(tmp_path: Path, **changed: object) -> list[object]:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{**ROW, "bboxs": [[10, 10, 50, 50]], **changed}]))
    return list(SOURCES["tallyqa"].read(path, None, Source(name="t", format="tallyqa", path=path)))


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("field", ["question", "answer"])
def test_a_row_with_a_special_token_is_rejected_by_name(tmp_path, token, field):
    (row,) = read(tmp_path, **{field: f"What is {token} here?"})
    assert isinstance(row, Reject), row
    # An answer's tag would be refused for being one; the token is what is named.
    assert (row.reason, row.field) == ("special-token", field)
    assert field in row.detail and row.detail.isascii()


@pytest.mark.parametrize("text", PLAIN)
def test_plain_text_is_no_special_token(tmp_path, text):
    assert special_tokens.find(text) is None
    (row,) = read(tmp_path, question=text)
    assert not isinstance(row, Reject), row


def check(text: str, answer: str = "blue", question: str = "What colour?", reference: str = "blue") -> object:
    row = Sample(
        "s/d/1", "s", "d", "train", question, reference, "a.jpg", "0" * 64, 100, 80, ((0.2, 0.2, 0.5, 0.5),)
    )
    asked = ((Region((0.0, 0.0, 1.0, 1.0), 0.512),),)
    area = '[{"bbox_2d": [0.0, 0.0, 1.0, 1.0], "depth": 0.512}]'
    reply = f"```\n<think>\n<area>{area}</area>\n<text>{text}</text>\n</think>\n<answer>\n{answer}\n</answer>\n```"
    return acceptance.check(reply, asked, row)


@pytest.mark.parametrize("token", ["<|im_end|>", "<|image_pad|>", "</s>", "[INST]", "a\0b", "<global-img>"])
def test_a_chain_with_a_special_token_is_refused(token):
    assert isinstance(check("A mug."), acceptance.Accepted)
    for refused in (check(f"A mug {token} on a desk."), check("A mug.", answer=f"blue {token}")):
        assert isinstance(refused, acceptance.Refused)
        assert refused.kind in ("special-token", "malformed")  # the grammar has no <tag> anyway


@given(st.text(alphabet="<>/ab_ |[]\n", min_size=1, max_size=12))
def test_a_reference_answer_is_taken_exactly_where_a_chain_can_give_it(written):
    step = chain.Step((Region((0.0, 0.0, 1.0, 1.0), 0.5),), "Seen.")
    try:
        chain.render(chain.Chain((step,), written.strip()))
        possible = special_tokens.find(written.strip()) is None
    except ValueError:
        possible = False
    try:
        taken = fields.answer(written) == written.strip()
    except fields.BadRow:
        taken = False
    assert taken == possible


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"answer": "a <b>bold</b> thing"}, "chain-tag"),
        ({"answer": "</answer>"}, "chain-tag"),
        ({"question": "What is <think> for?"}, "chain-tag"),
        ({"question": "How " * 3000}, "text-too-long"),
        ({"answer": "a" * 10_001}, "text-too-long"),
        ({"bboxs": [[1, 1, 50, 50]] * 101}, "too-many-boxes"),
    ],
)
def test_a_row_that_cannot_become_a_chain_is_rejected_before_it_is_paid_for(tmp_path, changed, reason):
    (row,) = read(tmp_path, **changed)
    assert isinstance(row, Reject) and row.reason == reason, row


def test_tallyqa_without_boxes_says_which_file_is_wanted(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([ROW]))
    (row,) = SOURCES["tallyqa"].read(path, None, Source(name="t", format="tallyqa", path=path))
    assert row.reason == "no-box" and "GRIT" in row.detail and "tallyqa_val.jsonl" in row.detail


def test_words_of_the_question_are_no_leak():
    said = "The prompt on the screen asks for a name."
    assert check(said, question="What colour?").kind == "leak"
    assert isinstance(check(said, question="What does the prompt say?"), acceptance.Accepted)
    both = "The prompt is blue, as requested."  # one phrase is the question's, the other betrays
    assert check(both, question="What does the prompt say?").kind == "leak"


def test_a_token_is_shown_in_ascii_and_a_control_character_by_its_number():
    assert special_tokens.find("a <|im_end|> b") == "'<|im_end|>'"
    assert special_tokens.find("<\uff5cx\uff5c>") == r"'<\uff5cx\uff5c>'"
    assert special_tokens.find("a\x00b") == "the control character U+0000"
    assert special_tokens.find("a <|im_end|> \x1f") == "'<|im_end|>'"
    assert special_tokens.find("1 < 2\n\t") is None


@given(st.text(st.one_of(st.sampled_from("<>[]|｜/INST_0\n\t\x00\x9d\u200b "), st.characters()), max_size=12))
def test_texts_that_are_soon_told_hold_nothing(text: str) -> None:
    found = special_tokens._TOKEN.search(text) or special_tokens._CONTROL.search(text)
    assert (special_tokens.find(text) is None) == (found is None)


def test_every_token_and_control_character_is_found_within_a_text() -> None:
    controls = [chr(code) for code in range(0x110000) if special_tokens._CONTROL.match(chr(code))]
    assert len(controls) == 62
    for token in (*special_tokens._TOKENS, *controls):
        assert special_tokens.find(f"a {token} b")
