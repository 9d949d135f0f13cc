"""The OpenAI protocol of the embedded server: what is honoured, what is refused, and what a connection outlives."""

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from sifthinker.models import embedded_server, generation, loading, turns
from sifthinker.models.generation import Reply, Sampling
from sifthinker.models.protocol import BadRequest, Chat, Completion, read

HELLO = [{"role": "user", "content": "Say: red cone"}]


def body(**more: Any) -> bytes:
    return json.dumps({"model": "policy", "messages": HELLO, "temperature": 0} | more).encode()


def data_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def pictures(*urls: str) -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}]


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": 2**64}, "seed"),
        ({"stop": ""}, "stop.0"),
        ({"stop": ["a", 3]}, "stop.1"),
        ({"stream_options": {"include_usage": "?"}}, "stream_options.include_usage"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": "a", "tool_calls": [{}]}]}, "messages.0.tool_calls"),
    ],
)
def test_what_the_server_does_not_have_or_cannot_read_is_refused_by_its_name(
    more: dict[str, Any], field: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        read(Chat, body(**more), "policy")
    assert refused.value.status == 400
    assert refused.value.param == field
    assert refused.value.body()["error"]["message"].startswith(field)


@pytest.mark.parametrize(
    "more",
    [
        {"n": 1, "logprobs": False, "top_logprobs": None, "presence_penalty": 0.0, "tools": None},
        {"response_format": {"type": "text"}, "logit_bias": {}, "stop": []},
        {"user": "me", "metadata": {"run": "1"}, "service_tier": "auto"},
    ],
)
def test_a_field_at_the_value_that_asks_for_nothing_is_taken(more: dict[str, Any]) -> None:
    assert read(Chat, body(**more), "policy").settings() == Sampling(1024, temperature=0)


def test_the_settings_of_a_request_are_those_of_its_reply() -> None:
    asked = read(
        Chat,
        body(max_tokens=7, max_completion_tokens=9, top_p=0.5, seed=-3, stop="x", temperature=2),
        "policy",
    )
    assert asked.settings() == Sampling(9, 2, 0.5, -3, ("x",))
    asked_too = read(Completion, b'{"model": "policy", "prompt": "a", "stop": ["a", "b"]}', "policy")
    assert asked_too.settings() == Sampling(16, stop=("a", "b"))


@pytest.mark.parametrize("raw", [b"", b"no json", b"[1]", b"\xff", b'{"a":' * 5000, body()[:-1]])
def test_a_body_that_is_no_request_is_a_bad_request(raw: bytes) -> None:
    with pytest.raises(BadRequest, match="body: ") as refused:
        read(Chat, raw, "policy")
    assert refused.value.status == 400


def test_half_a_character_is_a_bad_request() -> None:
    with pytest.raises(BadRequest):
        read(Chat, b'{"model": "policy", "messages": [{"role": "user", "content": "\\ud800"}]}', "policy")


def test_another_model_is_not_found() -> None:
    with pytest.raises(BadRequest, match="this server has 'policy'") as refused:
        read(Chat, body(model="gpt-4o"), "policy")
    assert (refused.value.status, refused.value.body()["error"]["code"]) == (404, "model_not_found")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> generation.Policy:
    folder = tmp_path_factory.mktemp("policy")
    loading.fetch("miniature", None, "policy", "qwen2_5_vl", 0, folder)
    return generation.Policy(folder)


def said(policy: generation.Policy, pieces: list[str] | None = None, **sampling: Any) -> Reply:
    inputs = policy.conversation([{"role": "user", "content": [{"type": "text", "text": "Say: red cone"}]}])
    return policy.reply(
        inputs,
        Sampling(**{"max_tokens": 12, "temperature": 0} | sampling),
        threading.Event(),
        pieces_of(pieces),
    )


def pieces_of(pieces: list[str] | None) -> Any:
    return None if pieces is None else pieces.append


def test_a_reply_ends_before_the_first_stop_text_wherever_its_tokens_end(policy: generation.Policy) -> None:
    whole = said(policy)
    assert (whole.completion_tokens, whole.finish_reason) == (12, "length")
    for start in range(1, len(whole.text) - 3, 9):
        stop = whole.text[start : start + 3]
        pieces: list[str] = []
        cut = said(policy, pieces, stop=("never said", stop))
        assert cut.text == whole.text[: whole.text.index(stop)] == "".join(pieces)
        assert cut.finish_reason == "stop"
        assert cut.completion_tokens <= whole.completion_tokens
    early = said(policy, stop=(whole.text[:2],))
    assert early.completion_tokens < 4, "the generation ends there"


def test_a_stream_holds_back_nothing_at_the_end(policy: generation.Policy) -> None:
    whole = said(policy)
    pieces: list[str] = []
    held = said(policy, pieces, stop=(whole.text[-2:] + "never",))
    assert held.text == whole.text == "".join(pieces)
    assert len(pieces) > 3


def test_a_reply_that_nobody_waits_for_is_given_up(policy: generation.Policy) -> None:
    gone = threading.Event()
    inputs = policy.conversation([{"role": "user", "content": [{"type": "text", "text": "Say: red"}]}])
    pieces: list[str] = []

    def say(piece: str) -> None:
        pieces.append(piece)
        gone.set()

    with pytest.raises(generation.GivenUp):
        policy.reply(inputs, Sampling(1000, 0), gone, say)
    assert len(pieces) < 4, "of a thousand tokens"


def test_replies_without_a_seed_differ_and_those_of_one_seed_do_not(policy: generation.Policy) -> None:
    assert len({said(policy, temperature=2.0).text for _ in range(4)}) > 1
    assert len({said(policy, temperature=2.0, seed=5).text for _ in range(2)}) == 1


def test_a_prompt_that_the_model_cannot_hold_is_unfit(policy: generation.Policy) -> None:
    with pytest.raises(generation.Unfit, match="the model holds 1 to 4095"):
        policy.continuation("red cone " * 3000)
    with pytest.raises(generation.Unfit, match="stands for a picture"):
        policy.conversation([{"role": "user", "content": [{"type": "text", "text": "a <|image_pad|>"}]}])


class Served:
    """The application on a thread of this process, with the real model."""

    def __init__(self, asked: turns.Turns) -> None:
        import uvicorn

        app = embedded_server.application("policy", asked)
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}/v1"

    def end(self) -> None:
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture(scope="module")
def url(policy: generation.Policy) -> Iterator[str]:
    served = Served(turns.Turns(policy))
    yield served.url
    served.end()


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0)


def test_a_connection_outlives_bad_requests(url: str) -> None:
    """One connection: the pool holds no more, and it would be opened anew only after an error of the transport."""
    bad: list[dict[str, Any]] = [
        {"messages": []},
        {"max_tokens": 0},
        {"stop": [""]},
        {"model": "gpt"},
        {"messages": pictures("/etc/hostname")},
        {"messages": pictures("http://127.0.0.1:9/a.png")},
        {"messages": pictures("data:image/png;base64,AAAA")},
        {"messages": [{"role": "user", "content": "<|image_pad|>"}]},
        {"messages": [{"role": "user", "content": "red " * 5000}], "stream": True},
    ]
    transport = httpx.HTTPTransport(limits=httpx.Limits(max_connections=1), retries=0)
    with httpx.Client(transport=transport, trust_env=False, timeout=30) as one:
        streams = set()
        for more in bad:
            reply = one.post(f"{url}/chat/completions", content=body(**more))
            assert reply.status_code == (404 if more.get("model") else 400), more
            assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
            streams.add(reply.extensions["network_stream"].get_extra_info("client_addr"))
        good = one.post(f"{url}/chat/completions", content=body(max_tokens=2))
        assert good.status_code == 200
        streams.add(good.extensions["network_stream"].get_extra_info("client_addr"))
        assert len(streams) == 1
        assert one.get(f"{url}/nowhere").json()["error"]["message"] == "GET /v1/nowhere: Not Found"
        assert one.get(f"{url}/chat/completions").status_code == 405


def test_a_failure_of_the_server_is_a_500_with_json_and_the_connection_lives(
    policy: generation.Policy,
) -> None:
    def fails(_: Any) -> Any:
        raise KeyError("a mistake of ours")

    served = Served(turns.Turns(policy, fails))
    with httpx.Client(trust_env=False) as one:
        for more in ({}, {"stream": True}):
            reply = one.post(f"{served.url}/chat/completions", content=body(**more))
            assert reply.status_code == 500
            assert "KeyError" in reply.json()["error"]["message"]
        assert one.get(f"{served.url}/models").status_code == 200
    served.end()


def test_the_official_client_gets_one_reply_whole_and_streamed(client: openai.OpenAI) -> None:
    asked: Any = {"model": "policy", "messages": HELLO, "temperature": 0, "max_tokens": 9}
    whole = client.chat.completions.create(**asked)
    assert (whole.object, whole.choices[0].finish_reason) == ("chat.completion", "length")
    assert whole.usage and whole.usage.completion_tokens == 9
    events = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert events[0].choices[0].delta.role == "assistant"
    pieces = [event.choices[0].delta.content or "" for event in events if event.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert events[-2].choices[0].finish_reason == "length"
    assert events[-1].usage == whole.usage and not events[-1].choices
    cut = client.chat.completions.create(**asked, stop=(whole.choices[0].message.content or "")[3:6])
    assert cut.choices[0].message.content == (whole.choices[0].message.content or "")[:3]
    assert cut.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("more", "field"),
    [({"n": 2}, "n"), ({"logprobs": True}, "logprobs"), ({"logprobs": True, "top_logprobs": 3}, "logprobs")],
)
def test_the_official_client_is_told_what_the_server_does_not_have(
    client: openai.OpenAI, more: dict[str, Any], field: str
) -> None:
    """Another reply than the asked one would be taken for it; a retry would not help, and a 400 says so."""
    asked: Any = {"model": "policy", "messages": HELLO, "max_tokens": 2, **more}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**asked, stream=stream)
        assert refused.value.response.headers["content-type"] == "application/json"
        assert (refused.value.status_code, refused.value.param) == (400, field)
        assert f"{field}: " in refused.value.message and "not supported" in refused.value.message
    continued: Any = {"n": {"n": 2}, "logprobs": {"logprobs": 2}}  # in a continuation, logprobs is a number
    with pytest.raises(openai.BadRequestError, match=f"{field}: "):
        client.completions.create(model="policy", prompt="red", max_tokens=2, **continued[field])


def test_a_stream_is_closed_as_the_protocol_says(url: str) -> None:
    with httpx.stream(
        "POST", f"{url}/chat/completions", content=body(max_tokens=3, stream=True), trust_env=False
    ) as reply:
        lines = [line for line in reply.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    assert "usage" not in json.loads(lines[-2].removeprefix("data: "))


def test_the_model_is_listed_and_retrieved_by_its_name(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["policy"]
    assert client.models.retrieve("policy").id == "policy"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_only_a_server_that_adds_and_takes_nothing_says_which_folder_it_serves(
    policy: generation.Policy, client: openai.OpenAI
) -> None:
    """An evaluation takes that folder's weights for what answered (`evaluation.running_server`)."""
    assert client.models.retrieve("policy").to_dict()["root"] == str(policy.folder)
    assert turns.Turns(policy, lambda messages: messages).root == ""
    assert turns.Turns(policy, finish=lambda text: text).root == ""


def test_a_text_is_continued_whole_and_streamed(client: openai.OpenAI) -> None:
    asked: Any = {"model": "policy", "prompt": "red cone", "temperature": 0, "max_tokens": 6}
    whole = client.completions.create(**asked)
    streamed = client.completions.create(**asked, stream=True)
    assert "".join(event.choices[0].text for event in streamed) == whole.choices[0].text


def test_a_client_that_hangs_up_frees_the_model(
    policy: generation.Policy, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both forms: otherwise thousands of tokens would be made before the next one's turn."""
    settings = policy.model.generation_config
    monkeypatch.setattr(settings, "suppress_tokens", [*settings.suppress_tokens, *policy.ends])
    for more in ({"stream": True}, {}):
        with pytest.raises(httpx.TimeoutException), httpx.Client(trust_env=False, timeout=0.3) as hasty:
            asked = body(max_tokens=4000, temperature=1, seed=1, **more)
            with hasty.stream("POST", f"{url}/chat/completions", content=asked) as reply:
                deadline = time.monotonic() + 0.3
                for _ in reply.iter_raw():
                    if time.monotonic() > deadline:
                        raise httpx.ReadTimeout("enough")
        began = time.monotonic()
        httpx.post(f"{url}/chat/completions", content=body(max_tokens=2), trust_env=False, timeout=60)
        assert time.monotonic() - began < 5


def test_the_port_of_another_server_is_a_mistake_with_a_message(url: str) -> None:
    port = int(url.removesuffix("/v1").rpartition(":")[2])
    with pytest.raises(embedded_server.UserError, match=f"port {port} .* --port"):
        embedded_server.run(lambda: pytest.fail("nothing is loaded"), port, "policy")
