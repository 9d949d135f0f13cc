"""Providers by name: what their endpoints want that differs from the defaults of an `api` section.

`api.preset: NAME` fills in the fields that the configuration leaves out. A field that is given wins, whatever its value.
`sif plan` prints what will be sent, with the preset's values in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Preset:
    """One provider."""

    fields: Mapping[str, Any]  # of an `api` section
    special: str  # what differs, and why
    source: str  # where the provider says so
    hosts: tuple[str, ...] = ()  # more of them that may be sent the key; *.example.com are all below
    throttles: tuple[str, ...] = ()  # codes that elsewhere mean an empty account, and here a limit a minute

    @property
    def patterns(self) -> tuple[str, ...]:
        """Of its hosts."""
        return (urlsplit(self.fields["base_url"]).hostname or "", *self.hosts)


PRESETS: dict[str, Preset] = {
    "openai": Preset(
        {
            "base_url": "https://api.openai.com/v1",
            "api_key_env": "OPENAI_API_KEY",
            "token_limit_field": "max_completion_tokens",
            "leave_out": ["temperature"],
        },
        "Reasoning models (o-series, GPT-5) refuse max_tokens, and any temperature but 1. Reasoning counts as completion "
        "tokens: raise annotate.max_tokens. Older models take a temperature: leave_out: [].",
        "platform.openai.com/docs/api-reference/chat/create (max_tokens is deprecated), /docs/guides/reasoning",
        ("*.api.openai.com",),
    ),
    "ark": Preset(
        {"base_url": "https://ark.cn-beijing.volces.com/api/v3", "api_key_env": "ARK_API_KEY"},
        "mode: batch_chat is cheaper. Doubao models from 1.6 on think unless extra: {thinking: {type: disabled}}. `model` "
        "is a model's id or that of an endpoint (ep-...).",
        "www.volcengine.com/docs/82379 (chat completions, deep thinking, batch inference)",
        ("*.volces.com", "*.bytepluses.com"),
    ),
    "dashscope": Preset(
        {
            "base_url": "https://dashscope.aliyuncs.com/compatible-mode/v1",
            "api_key_env": "DASHSCOPE_API_KEY",
            "extra": {"enable_thinking": False},
        },
        "Open Qwen3 models think by default, and refuse that in a call that is not streamed. Outside China base_url is "
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1. A 429 with the code insufficient_quota is a limit a minute "
        "there; an empty account is a 400 with the code Arrearage.",
        "help.aliyun.com/zh/model-studio/deep-thinking, /error-code; github.com/QuantumNous/new-api/pull/1109",
        ("dashscope-intl.aliyuncs.com", "dashscope-us.aliyuncs.com"),
        throttles=("insufficient_quota",),
    ),
    "openrouter": Preset(
        {
            "base_url": "https://openrouter.ai/api/v1",
            "api_key_env": "OPENROUTER_API_KEY",
            "extra": {"provider": {"require_parameters": True}},
        },
        "Many providers serve one model: only those that honour every parameter are taken. Errors come with status 200.",
        "openrouter.ai/docs: Provider routing (require_parameters), Errors",
    ),
    "gemini": Preset(
        {
            "base_url": "https://generativelanguage.googleapis.com/v1beta/openai",
            "api_key_env": "GEMINI_API_KEY",
            "leave_out": ["seed"],
        },
        "The compatible endpoint lists no seed. Thinking counts against max_tokens: raise it, or set "
        "extra: {reasoning_effort: low}. Errors come in a list.",
        "ai.google.dev/gemini-api/docs/openai",
    ),
    "vllm": Preset(
        {"base_url": "http://127.0.0.1:8000/v1", "api_key_env": ""},
        "Start it with --limit-mm-per-prompt for several pictures a prompt and --generation-config vllm. A Qwen3 model "
        "thinks unless extra: {chat_template_kwargs: {enable_thinking: false}}.",
        "docs.vllm.ai: OpenAI-compatible server, Reasoning outputs",
    ),
    "sglang": Preset(
        {"base_url": "http://127.0.0.1:30000/v1", "api_key_env": ""},
        "A Qwen3 model thinks unless extra: {chat_template_kwargs: {enable_thinking: false}}.",
        "docs.sglang.ai: OpenAI APIs, Reasoning parser",
    ),
    "ollama": Preset(
        {"base_url": "http://127.0.0.1:11434/v1", "api_key_env": "", "concurrency": 4, "timeout": 600.0},
        "A request cannot set the context: start the server with OLLAMA_CONTEXT_LENGTH=16384, else longer prompts are cut "
        "without a word. Few requests run at once (OLLAMA_NUM_PARALLEL).",
        "github.com/ollama/ollama/blob/main/docs/openai.md and docs/faq.md",
    ),
}


def matches(host: str, pattern: str) -> bool:
    """Whether a host is the one of a pattern, or below it where that is *.example.com."""
    return host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def throttles(url: str) -> tuple[str, ...]:
    """The `Preset.throttles` of the provider whose host a URL names; none for any other host."""
    host = urlsplit(url).hostname or ""
    for preset in PRESETS.values():
        if any(matches(host, pattern) for pattern in preset.patterns):
            return preset.throttles
    return ()
