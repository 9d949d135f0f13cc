import json
import urllib.error
import urllib.request

import openai
import pytest

from sifthinker.annotation.acceptance import Accepted, check
from sifthinker.annotation.annotate import messages
from sifthinker.core import prompts
from sifthinker.core.records import Region, Sample
from sifthinker.llm import judge, standin

pytestmark = pytest.mark.e2e  # the stand-in is a program

ROW = Sample(
    "a/b/0", "a", "b", "train", "What?", "a red coat", "x.png", "0", 100, 100, ((0.2, 0.2, 0.4, 0.4),)
)
ASKED = ((Region((0.0, 0.0, 1.0, 1.0), 0.512),), (Region((0.2, 0.2, 0.4, 0.4), 0.331),))
MESSAGES = messages(ROW, ASKED, ["data:image/jpeg;base64,AAAA"] * 2)


def client(url: str, **options) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="any", **{"max_retries": 0, "timeout": 5.0, **options})


def test_the_official_client_gets_a_chain_that_passes_the_check(tmp_path):
    with standin.running(tmp_path / "log") as url:
        reply = client(url).chat.completions.create(model="any", messages=MESSAGES, max_tokens=2000)
        assert [model.id for model in client(url).models.list()] == ["standin-1"]
    assert reply.model.startswith("standin")
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    accepted = check(reply.choices[0].message.content, ASKED, ROW)
    assert isinstance(accepted, Accepted), accepted
    assert accepted.repairs == ()


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("429", openai.RateLimitError),
        ("429-retry-after", openai.RateLimitError),
        ("500", openai.InternalServerError),
        ("502", openai.InternalServerError),
        ("stall", openai.APITimeoutError),
        ("reset", openai.APIConnectionError),
        ("malformed-json", json.JSONDecodeError),
    ],
)
def test_the_official_client_sees_each_fault_of_the_transport_as_what_it_is(tmp_path, kind, error):
    with standin.running(tmp_path / "log", {kind: 1.0}) as url:
        with pytest.raises(error) as caught:
            client(url, timeout=0.5).chat.completions.create(model="any", messages=MESSAGES)
        if kind == "429-retry-after":
            assert float(caught.value.response.headers["retry-after"]) > 0
        assert standin.counts(url)["answered"] == 0
        assert standin.counts(url)[kind] == 1


@pytest.mark.parametrize(
    "kind", ["truncated", "wrong-boxes", "wrong-depths", "wrong-answer", "duplicate", "content-filter"]
)
def test_each_fault_of_the_content_fails_the_check(tmp_path, kind):
    with standin.running(tmp_path / "log", {kind: 1.0}) as url:
        choice = client(url).chat.completions.create(model="any", messages=MESSAGES).choices[0]
    assert (choice.finish_reason == "content_filter") == (kind == "content-filter")
    verdict = check(choice.message.content, ASKED, ROW)
    assert not (isinstance(verdict, Accepted) and verdict.agrees)


def test_equal_requests_get_equal_replies_whatever_came_between(tmp_path):
    def ask(url: str, question: str) -> str:
        text = prompts.ANNOTATOR_QUESTION.format(question=question, answer="red")
        talk = [
            MESSAGES[0],
            {"role": "user", "content": [{"type": "text", "text": text}, *MESSAGES[1]["content"][1:]]},
        ]
        return client(url).chat.completions.create(model="any", messages=talk).choices[0].message.content

    with standin.running(tmp_path / "log", {"wrong-boxes": 0.3, "truncated": 0.3}) as url:
        forward = [ask(url, str(n)) for n in range(8)]
    with standin.running(tmp_path / "log", {"wrong-boxes": 0.3, "truncated": 0.3}) as url:
        backward = [ask(url, str(n)) for n in reversed(range(8))]
    assert forward == backward[::-1]
    assert len(set(forward)) > 4


def test_a_quota_is_kept_and_says_when_to_come_back(tmp_path):
    request = judge.request("q", "a", "b")
    with standin.running(tmp_path / "log", requests_per_minute=3) as url:
        for _ in range(3):
            client(url).chat.completions.create(model="any", messages=request.messages)
        with pytest.raises(openai.RateLimitError) as caught:
            client(url).chat.completions.create(model="any", messages=request.messages)
        counts = standin.counts(url)
    assert 55 < float(caught.value.response.headers["retry-after"]) <= 60
    assert counts["minutes"] == [
        {"requests": 4, "accepted": 3, "refused": 1, "tokens": counts["minutes"][0]["tokens"]}
    ]
    assert (counts["answered"], counts["distinct"], counts["repeated"]) == (3, 1, 2)


def test_what_it_does_not_know_it_refuses(tmp_path):
    with standin.running(tmp_path / "log", key="the-key") as url:
        with pytest.raises(openai.AuthenticationError):
            client(url).chat.completions.create(model="any", messages=MESSAGES)
        known = client(url).with_options(api_key="the-key")
        with pytest.raises(
            openai.BadRequestError, match="knows the annotator's and the judge's prompts only"
        ):
            known.chat.completions.create(
                model="any",
                messages=[{"role": "system", "content": "x"}, {"role": "user", "content": "hello"}],
            )
        with pytest.raises(openai.NotFoundError):
            known.embeddings.create(model="any", input="x")


def test_an_unknown_fault_is_named(tmp_path):
    with (
        pytest.raises(RuntimeError, match=r"unknown fault 'fire'; known: 429"),
        standin.running(tmp_path / "log", {"fire": 1.0}),
    ):
        pass


def test_it_ends_with_its_block(tmp_path):
    with pytest.raises(KeyError), standin.running(tmp_path / "log") as url:
        standin.counts(url)
        raise KeyError
    with pytest.raises(urllib.error.URLError):
        standin.counts(url)
