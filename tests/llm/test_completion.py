"""What is read from a server's answer, field by field; test_odd_replies.py has the same over the wire."""

import pytest

from sifthinker.llm.completion import (
    MOST_TOKENS,
    Completion,
    Tokens,
    Unreadable,
    counted,
    excerpt,
    fault,
    parse,
    plain,
    read,
    tokens,
    words,
)

USAGE = {"prompt_tokens": 10, "completion_tokens": 5}


def says(content: object, **choice: object) -> dict[str, object]:
    return {"choices": [{"message": {"content": content}, **choice}], "model": "m-1", "usage": USAGE}


def message(fields: dict[str, object], reason: str = "stop") -> dict[str, object]:
    return {"choices": [{"message": fields, "finish_reason": reason}], "model": "m-1", "usage": USAGE}


@pytest.mark.parametrize(
    ("answer", "completion"),
    [
        (says("fine", finish_reason="length"), Completion("fine", "length", "m-1")),
        (says("fine"), Completion("fine", "stop", "m-1")),  # no reason is the usual one
        (says("fine", finish_reason=None), Completion("fine", "stop", "m-1")),
        (says("fine", finish_reason=7), Completion("fine", "unknown", "m-1")),
        (says("fine", finish_reason="r" * 300), Completion("fine", "r" * 200, "m-1")),
        ({**says("fine"), "model": "m" * 300}, Completion("fine", "stop", "m" * 200)),
        ({**says("fine"), "model": None}, Completion("fine", "stop", "")),
        ({**says("a\ud800b", finish_reason="\udfff"), "model": "\ud9abm"}, Completion("a\ufffdb", "\ufffd", "\ufffdm")),
        (says(None), Completion("", "stop", "m-1")),
        (says("fine", finish_reason="MAX_TOKENS"), Completion("fine", "length", "m-1")),  # Gemini's word
        (says("", finish_reason="SAFETY"), Completion("", "content_filter", "m-1")),
        (says("fine", finish_reason="end_turn"), Completion("fine", "stop", "m-1")),
        (message({"content": None, "tool_calls": [{"id": "1"}]}), Completion("", "tool_calls", "m-1")),
        (message({"content": "", "function_call": {"name": "f"}}), Completion("", "tool_calls", "m-1")),
        (message({"content": "said", "tool_calls": []}), Completion("said", "stop", "m-1")),
        (message({"content": None, "refusal": "I cannot"}), Completion("I cannot", "stop", "m-1")),
        (message({"content": "", "reasoning_content": "hm"}, "length"), Completion("", "length", "m-1")),
        (message({"content": "a", "reasoning": "hm", "reasoning_details": []}), Completion("a", "stop", "m-1")),
        (says(["one ", "two"]), Completion("one two", "stop", "m-1")),
        (says([{"type": "text", "text": "one "}, {"text": "two"}]), Completion("one two", "stop", "m-1")),
        (says([{"type": "output_text", "text": "one"}]), Completion("one", "stop", "m-1")),
        (
            says([{"type": "reasoning", "text": "hm"}, {"type": "thinking", "thinking": "hm"}, {"text": "one"}]),
            Completion("one", "stop", "m-1"),
        ),
        ({**says("first"), "choices": [*says("first")["choices"], *says("second")["choices"]]}, Completion("first", "stop", "m-1")),  # type: ignore[misc]
    ],
)  # fmt: skip
def test_the_first_choice_is_read(answer: object, completion: Completion) -> None:
    assert read(answer) == completion


@pytest.mark.parametrize(
    ("answer", "where"),
    [
        (True, "the answer is a truth value, not an object"),
        (1, "the answer is a number, not an object"),
        (1.5, "the answer is a number, not an object"),
        ("text", "the answer is a text, not an object"),
        ([says("x")], "the answer is a list, not an object"),
        (None, "the answer is missing, not an object"),
        ({}, "it has no choices"),
        ({"choices": []}, "it has no choices"),
        ({"choices": {"message": {}}}, "it has no choices"),
        ({"choices": ["fine"]}, "it has no choices"),
        ({"choices": [{}]}, "choices[0].message is missing, not an object"),
        ({"choices": [{"message": []}]}, "choices[0].message is a list, not an object"),
        (says({"text": "x"}), "choices[0].message.content is an object, not a text"),
        (says([1]), "choices[0].message.content has a part that is no text"),
        (says([{"type": "image", "text": "x"}]), "choices[0].message.content has a part that is no text"),
        (says([{"type": "text"}]), "choices[0].message.content has a part that is no text"),
    ],
)
def test_an_answer_without_a_text_says_where_it_is_broken(answer: object, where: str) -> None:
    with pytest.raises(Unreadable) as caught:
        read(answer)
    assert str(caught.value) == where


def test_a_body_is_json_or_says_why_it_is_not() -> None:
    assert parse(b'{"a": [1]}') == {"a": [1]}
    with pytest.raises(Unreadable, match=r"^the answer is not JSON: Expecting value"):
        parse(b"<html>")
    with pytest.raises(Unreadable, match=r"^the answer is JSON that is nested too deep$"):
        parse(b"[" * 200_000)


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        (USAGE, Tokens(10, 0, 5)),
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": 4}}, Tokens(10, 4, 5)),
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": 10}}, Tokens(10, 10, 5)),
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": 11}}, Tokens(10, 10, 5)),  # never more than all
        ({**USAGE, "prompt_tokens_details": {"cached_tokens": -1}}, Tokens(10, 0, 5)),
        ({**USAGE, "prompt_tokens_details": {}}, Tokens(10, 0, 5)),
        ({**USAGE, "prompt_tokens_details": [4]}, Tokens(10, 0, 5)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, Tokens(0, 0, 0)),
        ({"prompt_tokens": "10", "completion_tokens": 5.0}, Tokens(10, 0, 5)),
        ({"prompt_tokens": MOST_TOKENS, "completion_tokens": 1}, Tokens(MOST_TOKENS, 0, 1)),
        ({"prompt_tokens": MOST_TOKENS + 1, "completion_tokens": 1}, None),
        ({"prompt_tokens": 1, "completion_tokens": MOST_TOKENS + 1}, None),
        ({"prompt_tokens": -1, "completion_tokens": 1}, None),
        ({"prompt_tokens": 1}, None),
        ({"completion_tokens": 1}, None),
        ({"prompt_tokens": True, "completion_tokens": 1}, None),
        ({"prompt_tokens": 1.5, "completion_tokens": 1}, None),
        ({"prompt_tokens": float("inf"), "completion_tokens": 1}, None),
        ({"prompt_tokens": "\u0663", "completion_tokens": 1}, None),  # a digit, but not ours
        ({"prompt_tokens": "-1", "completion_tokens": 1}, None),
        ({"prompt_tokens": "0" * 10 + "7", "completion_tokens": 1}, Tokens(7, 0, 1)),  # 11 characters
        ({"prompt_tokens": "0" * 11 + "7", "completion_tokens": 1}, None),
        ([], None),
        (None, None),
    ],
)
def test_a_usage_object_is_counted_or_is_none(usage: object, found: Tokens | None) -> None:
    assert counted(usage) == found


def test_a_server_that_counts_no_prompt_does_not_count() -> None:
    assert tokens(says("x")) == Tokens(10, 0, 5)
    assert tokens({"usage": {"prompt_tokens": 1, "completion_tokens": 0}}) == Tokens(1, 0, 0)
    assert tokens({"usage": {"prompt_tokens": 0, "completion_tokens": 5}}) is None
    assert tokens({}) is None
    assert tokens([USAGE]) is None


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, None),
        ({}, None),
        ("", None),
        ("words", 400),
        (["a"], 400),
        ({"message": "odd"}, 400),
        ({"code": 429}, 429),
        ({"code": "503"}, 503),
        ({"status": 401}, 401),
        ({"status_code": 404}, 404),
        ({"type": 502}, 502),
        ({"code": 399, "status": 500}, 500),  # the first that is an error's
        ({"code": 400, "status": 500}, 400),
        ({"code": 599}, 599),
        ({"code": 600}, 400),
        ({"code": "insufficient_quota"}, 402),  # before `quota`, which is a rate limit
        ({"code": "Insufficient Balance"}, 402),
        ({"type": "billing_hard_limit"}, 402),
        ({"code": "invalid_api_key"}, 401),
        ({"type": "authentication_error"}, 401),
        ({"status": "UNAUTHORIZED"}, 401),
        ({"status": "PERMISSION_DENIED"}, 403),
        ({"code": "model_not_found"}, 404),
        ({"code": "rate_limit_exceeded"}, 429),
        ({"code": "throttled"}, 429),
        ({"type": "overloaded_error"}, 503),
        ({"status": "INTERNAL"}, 503),
        ({"status_code": "Gateway timeout"}, 503),
        ({"code": None, "type": "server_error"}, 503),
        ({"code": "too", "type": "many"}, 429),  # the words are joined by a blank
    ],
)
def test_an_error_inside_an_answer_stands_for_a_status(error: object, status: int | None) -> None:
    assert fault({"error": error}) == status
    assert fault({"choices": [{"error": error, "message": {"content": "x"}}]}) == status


def test_an_error_in_a_list_of_one_is_an_error() -> None:
    assert fault([{"error": {"code": 402, "message": "top up"}}]) == 402
    assert words(b'[{"error": {"code": 402, "message": "top up"}}]') == "top up (402)"
    assert fault([{"error": {"code": 402}}, {"error": {"code": 401}}]) is None


def test_a_choice_s_error_counts_where_there_is_a_choice() -> None:
    assert fault({"error": {"code": 500}, "choices": [{"message": {}}]}) is None
    assert fault({"error": {"code": 500}, "choices": []}) == 500
    assert fault("error") is None


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"<h1>502  Bad\n Gateway</h1>", "<h1>502 Bad Gateway</h1>"),
        (b'{"error": "just words"}', "just words"),
        (b'{"error": {"message": "no", "code": "x"}}', "no (x)"),
        (b'{"error": {"message": "no", "code": 7, "type": "t"}}', "no (7)"),
        (b'{"error": {"message": "no", "type": "t"}}', "no (t)"),
        (b'{"error": {"message": "no", "code": [1]}}', "no"),
        (b'{"error": {"message": "no"}}', "no"),
        (b'{"message": "no", "code": "x"}', "no (x)"),
        (b'{"choices": [{"error": {"message": "no"}}]}', "no"),
        (b'{"error": {"text": "no"}}', '{"error": {"text": "no"}}'),
        (b'{"error": {"message": 5}}', '{"error": {"message": 5}}'),
        (b'["no"]', '["no"]'),
        (b'{"error": "\\ud800 half"}', "? half"),
        (b'{"error": {"message": "\\ud800 half"}}', "? half"),
        (b"x" * 501, "x" * 500),
        (b'["' + b"x" * 600, '["' + "x" * 498),
        (b'["' + b"x" * 600 + b'"]', '["' + "x" * 498),
        (b'{"error": "' + b"x" * 600 + b'"}', "x" * 500),
        (b'{"error": {"message": "' + b"x" * 600 + b'"}}', "x" * 500),
    ],
)
def test_a_provider_s_words_are_found_in_the_body_of_an_error(raw: bytes, said: str) -> None:
    assert words(raw) == said


def test_an_excerpt_is_one_safe_line() -> None:
    assert excerpt(b" \x1b[2J\x07 gone\r\n\x85 now\x7f") == "[2J gone \ufffd now"
    assert excerpt("\x9bred\u2028line".encode()) == "red line"
    assert excerpt(b"x" * 201) == "x" * 200
    assert excerpt(b"\n" * 799 + b"ab") == "a"  # four bytes a character are looked at
    assert excerpt(b"\n" * 11 + b"ab", 3) == "a"


def test_half_a_character_is_replaced_and_all_else_is_kept() -> None:
    assert plain("ascii") == "ascii"
    assert plain("\u72d7\ud7ff\ue000\U0001f415") == "\u72d7\ud7ff\ue000\U0001f415"
    assert plain("\ud800\udfff") == "\ufffd\ufffd"
