"""Any body: what is sent, under which key it is paid, and what a refused field means."""

from __future__ import annotations

import json
import re

import pytest

from flows.commands import requests
from sifthinker import llm
from sifthinker.config import Api, Config, identity, parse
from sifthinker.config.presets import PRESETS
from sifthinker.core.errors import UserError
from sifthinker.llm import parameters
from tests import evil

PLAIN = {"temperature": 0.5, "max_tokens": 99, "seed": 7}
OTHER = {"temperature": 0.5, "max_completion_tokens": 99, "seed": 7}
# Fields of the section, and the body's fields besides model and messages.
BODIES = [
    ({}, PLAIN),
    ({"extra": {"top_p": 0.9, "thinking": {"type": "disabled"}}}, {**PLAIN, "top_p": 0.9, "thinking": {"type": "disabled"}}),
    ({"token_limit_field": "max_completion_tokens"}, OTHER),
    ({"token_limit_field": "none"}, {"temperature": 0.5, "seed": 7}),
    ({"token_limit_field": "none", "extra": {"max_tokens": 5}}, {"temperature": 0.5, "seed": 7, "max_tokens": 5}),
    ({"leave_out": ["temperature"]}, {"max_tokens": 99, "seed": 7}),
    ({"leave_out": ["temperature", "seed"]}, {"max_tokens": 99}),
    ({"leave_out": ["temperature"], "extra": {"temperature": 1}}, {"max_tokens": 99, "seed": 7, "temperature": 1}),
]  # fmt: skip
HI = [{"role": "user", "content": "hi"}]


def request(**changes: object) -> llm.Request:
    return llm.Request(**{"messages": HI, "temperature": 0.5, "max_tokens": 99, "seed": 7, **changes})  # type: ignore[arg-type]


def key(api: Api, **changes: object) -> str:
    return request(**changes).identity(api, "")[0]


@pytest.mark.parametrize(("fields", "body"), BODIES)
def test_the_body_has_the_fields_that_the_section_says(fields, body):
    api = Api.model_validate({"model": "m", **fields})
    assert json.loads(request().body(api)) == {"model": "m", "messages": HI, **body}


def test_each_body_is_a_request_of_its_own():
    keys = {key(Api.model_validate({"model": "m", **fields})) for fields, _ in BODIES}
    assert len(keys) == len(BODIES)


def test_the_key_of_a_plain_request_is_what_it_was():
    asked = {
        "endpoint": "standin",
        "model": "m",
        "scope": "",
        "temperature": 0.5,
        "max_tokens": 99,
        "seed": 7,
    }
    record = json.dumps({**asked, "extra": {}, "messages": HI}, sort_keys=True, separators=(",", ":"))
    assert request().identity(Api(base_url="standin", model="m"), "")[1].decode() == record


def test_what_is_not_sent_is_not_in_the_key():
    api = Api(leave_out=("temperature", "seed"), token_limit_field="none")
    assert key(api) == key(api, temperature=0.1, seed=None, max_tokens=5)
    assert key(api) != key(Api())


def test_the_sections_identity_is_the_old_one_until_a_field_is_set():
    assert set(identity(Api())) == {"base_url", "model", "mode", "batch_chat_path"}
    assert identity(Api(extra={"a": 1}))["extra"] == {"a": 1}
    assert identity(Api(judge_tokens=64))["judge_tokens"] == 64


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"extra": {"model": "x"}}, "set `model`"),
        ({"extra": {"messages": []}}, "the stage writes them"),
        ({"extra": {"stream": True}}, "replies are read whole"),
        ({"extra": {"n": 2}}, "one reply is read"),
        ({"extra": {"temperature": 1}}, "leave_out ([temperature])"),
        ({"extra": {"max_tokens": 1}}, "see token_limit_field"),
        ({"extra": {"api_key": "sk-1"}}, "into the environment"),
        ({"extra": {"Authorization": "Bearer"}}, "into the environment"),
        (
            {"extra": {"extra_headers": {"Authorization": "x"}}},
            "extra must not hold extra_headers.Authorization: put",
        ),
        (
            {"extra": {"litellm": [{"to": {"api_key": "x"}}]}},
            "extra must not hold litellm[0].to.api_key: put",
        ),
        (
            {"extra": {"user": "sk-proj-1"}},
            "extra must not hold user, whose text looks like a key: put",
        ),
        ({"extra": {"headers": ["x", " Bearer abc"]}}, "extra must not hold headers[1], whose text looks"),
        ({"extra": {"a": float("nan")}}, "what JSON cannot"),
        ({"extra": {"a": 10**30}}, "what JSON cannot"),
        ({"extra": {"a": object()}}, "what JSON cannot"),
        ({"extra": {1: 2}}, "must be text"),
        ({"leave_out": ["messages"]}, "'temperature' or 'seed'"),
        ({"preset": "open-ai", "model": "m"}, "did you mean 'openai'"),
        ({"preset": "openai"}, "names no model"),
    ],
)
def test_a_body_that_cannot_be_sent_is_refused(fields, words):
    values = {
        "scenes": {},
        "annotate": {"api": {"model": "m", **fields} if fields != {"preset": "openai"} else fields},
    }
    with pytest.raises(UserError, match=re.escape(words)):
        parse(values, "mine.yaml")


@pytest.mark.parametrize(
    "extra", [{"a": {"secret": "xyzzy"}}, {"a": ["Bearer xyzzy"]}, {"a": {"b": "sk-xyzzy"}}]
)
def test_a_key_in_extra_is_refused_without_being_shown(extra):
    with pytest.raises(
        UserError, match=r"annotate\.api: extra must not hold .*into the environment"
    ) as error:
        parse({"scenes": {}, "annotate": {"api": {"model": "m", "extra": extra}}}, "mine.yaml")
    assert "xyzzy" not in str(error.value)


@pytest.mark.parametrize(
    "extra",
    [
        {"provider": {"order": ["task-1", "a bearer"], "max_tokens_a_day": 5}},
        {"user": "desk-7"},
        {"stop": ["Bearer"], "bearer": True},
    ],
)
def test_other_words_in_extra_are_no_keys(extra):
    assert Api(model="m", extra=extra).extra == extra


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_in_what_is_left_out_and_the_plan_shows_it(name):
    given = {"preset": name, "model": "m", "timeout": 7.0}
    api = Api.model_validate(given)
    assert api.timeout == 7.0
    for field, value in PRESETS[name].fields.items():
        expected = tuple(value) if isinstance(value, list) else value
        assert getattr(api, field) == (7.0 if field == "timeout" else expected)
    assert Api.model_validate(api.model_dump(mode="json")) == api
    plain = Api.model_validate({**PRESETS[name].fields, "model": "m", "timeout": 7.0})
    assert identity(api) == identity(plain)  # the name is no part of a key
    text = "\n".join(
        requests.lines(Config.model_validate({"scenes": {}, "annotate": {"api": given}}), {"annotate"})
    )
    assert api.base_url in text
    assert PRESETS[name].special in text
    assert all(json.dumps(value) in text for value in api.extra.values())
    assert ('"temperature"' in text) == ("temperature" not in api.leave_out)


def test_a_field_that_is_given_wins_over_the_preset():
    api = Api.model_validate(
        {"preset": "openai", "model": "m", "leave_out": [], "base_url": "https://eu.example/v1"}
    )
    assert (api.leave_out, api.base_url, api.token_limit_field) == (
        (),
        "https://eu.example/v1",
        "max_completion_tokens",
    )


def refusal(message: str, param: str | None = None, code: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "param": param, "code": code}}).encode()


@pytest.mark.parametrize(
    ("body", "fields", "todo"),
    [
        (refusal("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'"
                 " instead.", "max_tokens", "unsupported_parameter"), {}, "token_limit_field: max_completion_tokens"),
        (refusal("Unsupported value: 'temperature' does not support 0.7 with this model.", "temperature"), {}, "leave_out: [temperature]"),
        (refusal("Unknown name \"seed\": Cannot find field."), {}, "leave_out: [seed]"),
        (b'[{"error": {"code": 400, "message": "Unknown name \\"seed\\": Cannot find field."}}]', {}, "leave_out: [seed]"),
        (refusal("Unrecognized request argument supplied: top_k"), {"extra": {"top_k": 1}}, "take top_k out of extra"),
        (refusal("parameter.enable_thinking must be set to false for non-streaming calls"), {}, "extra: {enable_thinking: ...}"),
        (refusal("parameter.enable_thinking must be set to false"), {"extra": {"enable_thinking": True}}, "take enable_thinking"),
        (b'{"detail": "seed: Extra inputs are not permitted"}', {}, "leave_out: [seed]"),
        # About one request: the others may well be served.
        (refusal("'max_tokens' is too large: 2048. This model's maximum context length is 4096 tokens"), {}, None),
        (refusal("the image format is not supported"), {}, None),
        (refusal("seed must be positive"), {"leave_out": ["seed"]}, None),
        (refusal("Unsupported parameter: 'seed'"), {"leave_out": ["seed"]}, None),
        (b"<html>not supported</html>", {}, None),
    ],
)  # fmt: skip
def test_a_field_that_the_endpoint_refuses_is_named_with_what_to_set(body, fields, todo):
    found = parameters.advice(body, Api.model_validate({"model": "m", **fields}))
    assert found is None if todo is None else todo in str(found)


def test_the_first_refused_field_stops_everything_and_nothing_is_refused_for_good(tmp_path):
    def picky(number: int, body: bytes) -> evil.Answer:
        if "max_tokens" in json.loads(body):
            return (
                400,
                {},
                refusal("Unsupported parameter: 'max_tokens'", "max_tokens", "unsupported_parameter"),
            )
        return 200, {}, evil.chat()

    asked = [request(messages=[{"role": "user", "content": f"question {n}"}]) for n in range(20)]
    with evil.serving(picky) as server:
        api = Api(model="m", concurrency=2)
        with (
            llm.Client(api, tmp_path / "calls.db", server.url) as client,
            pytest.raises(llm.Unauthorized, match="token_limit_field: max_completion_tokens"),
        ):
            client.ask_all(asked)
        assert len(server.asked) <= 3
        mended = api.model_copy(update={"token_limit_field": "max_completion_tokens"})
        with llm.Client(mended, tmp_path / "calls.db", server.url) as client:
            assert all(isinstance(reply, llm.Reply) for reply in client.ask_all(asked))


def test_one_refused_field_among_answers_is_that_requests_alone(tmp_path):
    def whim(_: int, body: bytes) -> evil.Answer:
        odd = b"question 3" in body
        return (400, {}, refusal("'max_tokens' is not supported")) if odd else (200, {}, evil.chat())

    asked = [request(messages=[{"role": "user", "content": f"question {n}"}]) for n in range(6)]
    with (
        evil.serving(whim) as server,
        llm.Client(Api(model="m"), tmp_path / "calls.db", server.url) as client,
    ):
        replies = client.ask_all(asked)
    assert [isinstance(reply, llm.Failure) for reply in replies] == [n == 3 for n in range(6)]
    assert replies[3].kind == "bad-request"
