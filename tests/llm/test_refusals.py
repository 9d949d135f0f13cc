"""What a refusal is about: the account, the rate, or this one request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sifthinker.config import Api
from sifthinker.llm import completion
from sifthinker.llm.endpoint_errors import Dead, Transient, Unauthorized
from sifthinker.llm.http import Endpoint

OPENAI = "https://api.openai.com/v1"
ARK = "https://ark.cn-beijing.volces.com/api/v3"
DASHSCOPE = "https://dashscope.aliyuncs.com/compatible-mode/v1"
ABROAD = "https://dashscope-intl.aliyuncs.com/compatible-mode/v1"
OPENROUTER = "https://openrouter.ai/api/v1"
QUOTA = {
    "type": "insufficient_quota",
    "code": "insufficient_quota",
    "message": "You exceeded your current quota",
}
ARREARS = {"type": "Arrearage", "code": "Arrearage", "message": "make sure your account is in good standing"}
FLAGGED = {
    "code": 403,
    "message": "Your chosen model was not asked",
    "metadata": {"reasons": ["violence"], "flagged_input": "..."},
}


def meant(url: str, status: int, body: object) -> Exception:
    endpoint = Endpoint(Api(model="m", api_key_env=""), url)
    return endpoint.trouble(status, {}, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("url", "status", "error"),
    [
        (OPENAI, 429, QUOTA),
        (
            OPENAI,
            400,
            {"code": "billing_hard_limit_reached", "message": "Billing hard limit has been reached"},
        ),
        (DASHSCOPE, 400, ARREARS),
        (ABROAD, 400, ARREARS),
        (DASHSCOPE, 403, ARREARS),
        (DASHSCOPE, 429, ARREARS),
        (ARK, 403, {"code": "AccountOverdueError", "message": "your account has an overdue balance"}),
    ],
)
def test_an_account_without_credit_stops_the_stage_whatever_the_status(url, status, error):
    found = meant(url, status, {"error": error})
    assert isinstance(found, Unauthorized)
    assert "the account has no credit left" in str(found)
    assert error["message"] in str(found)


def test_the_error_may_be_the_body_itself():
    """As DashScope's own interface has it."""
    assert isinstance(meant(DASHSCOPE, 400, ARREARS), Unauthorized)


@pytest.mark.parametrize(
    "error",
    [
        {"code": "invalid_request", "message": "the question is: what is the insufficient_quota?"},
        {"code": "invalid_request", "message": "too long: 'Which year had an arrearage?'"},
        {"code": 400, "input": "arrearage"},
    ],
)
def test_a_request_that_is_refused_with_its_question_is_no_empty_account(error):
    found = meant(DASHSCOPE, 400, {"error": error})
    assert isinstance(found, Dead)
    assert found.failure.kind == "bad-request"


@pytest.mark.parametrize("url", [DASHSCOPE, ABROAD])
def test_dashscopes_insufficient_quota_is_a_limit_a_minute(url):
    found = meant(url, 429, {"error": QUOTA})
    assert isinstance(found, Transient)
    assert (found.kind, found.overload) == ("rate-limit", True)


@pytest.mark.parametrize(
    "error",
    [
        FLAGGED,
        {"code": 403, "message": "no", "metadata": {"reasons": ["violence"]}},
        {"code": 403, "message": "Your chosen model requires moderation and your input was flagged"},
        {"code": "content_policy_violation", "message": "no"},
        {"code": "InputTextSensitiveContentDetected", "message": "no"},
        {"code": "DataInspectionFailed", "message": "no"},
    ],
)
def test_a_request_that_a_filter_stopped_with_403_is_rejected_alone(error: dict[str, Any]) -> None:
    found = meant(OPENROUTER, 403, {"error": error})
    assert isinstance(found, Dead)
    assert found.failure.kind == "content-filter"
    assert found.failure.detail.startswith("HTTP 403: ")


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": 403, "message": "this key may not use the model; its name is case-sensitive"}},
        {
            "error": {
                "code": 403,
                "message": "your account was flagged for abuse",
                "metadata": {"reasons": []},
            }
        },
        {"error": "forbidden"},
        {"error": None},
        [],
    ],
)
def test_any_other_403_is_about_the_key(body):
    found = meant(OPENROUTER, 403, body)
    assert isinstance(found, Unauthorized)
    assert "may not use the model" in str(found)


def test_a_filter_inside_an_answer_with_200_rejects_alone_and_keeps_its_cost():
    endpoint = Endpoint(Api(model="m", api_key_env=""), OPENROUTER)
    body = {"error": FLAGGED, "usage": {"prompt_tokens": 7, "completion_tokens": 0}}
    with pytest.raises(Dead) as refused:
        endpoint.read(body, json.dumps(body).encode(), {}, 0.0)
    assert refused.value.failure.kind == "content-filter"
    assert refused.value.usage is not None and refused.value.usage.prompt_tokens == 7


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        (b'{"error": {"code": "A", "type": "B", "message": "arrearage"}}', "a b"),
        (b'[{"error": {"status": "RESOURCE_EXHAUSTED", "code": 429}}]', "resource_exhausted"),
        (b'{"code": "Arrearage", "message": ""}', "arrearage"),
        (b'{"error": "Arrearage"}', ""),
        (b'{"error": ["Arrearage"]}', ""),
        (b"<html>Arrearage</html>", ""),
    ],
)
def test_the_names_of_an_error_are_its_codes_and_types(raw, names):
    assert completion.names(raw) == names
