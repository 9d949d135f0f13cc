"""What will be sent to the endpoints of a run, for `sif plan`: no preset and no default hides a value."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from sifthinker.annotation import retry
from sifthinker.config import LOCAL, STANDIN, UNNAMED, Annotate, Api, Config
from sifthinker.config.presets import PRESETS
from sifthinker.llm import Request, judge
from sifthinker.llm.request import outline


def lines(config: Config, runs: Collection[str]) -> Iterator[str]:
    """A line for each kind of request of the stages that run, by the field of its endpoint."""
    shown: dict[str, tuple[Api, Request]] = {}
    if "annotate" in runs and config.annotates:
        shown |= _annotator("annotate", config.annotate)
    if "retry" in runs:
        for number, again in enumerate(config.retry.passes):
            shown |= _annotator(f"retry.passes[{number}]", retry.over(again, config.annotate))
    if "grpo" in runs:
        shown["grpo.judge"] = (config.grpo.judge, _judge(config.grpo.judge))
    if "evaluate" in runs and (api := config.evaluate.judge) is not None:
        shown["evaluate.judge"] = (api, _judge(api))
    for name, (api, request) in shown.items():
        if api.base_url == STANDIN:
            yield f"{name}: the embedded stand-in, not a model: {outline(api, request)}"
            continue
        if api.base_url == UNNAMED:
            yield f"{name}: no endpoint is named, so it cannot be asked"
            continue
        if api.base_url == LOCAL:
            yield f"{name}: {api.local_server} serves the folder {api.model} while the stage runs: {outline(api, request)}"
            continue
        key = f"key {api.api_key_env}" if api.api_key_env else "no key"
        where = {"chat": "/chat/completions", "batch_chat": api.batch_chat_path, "batch": " by batches"}
        yield f"{name}: {api.base_url}{where[api.mode]}, {key}: {outline(api, request)}"
    for name in dict.fromkeys(api.preset for api, _ in shown.values() if api.preset):
        yield f"preset {name}: {PRESETS[name].special}"


def _annotator(name: str, config: Annotate) -> dict[str, tuple[Api, Request]]:
    chain = Request([], config.temperature, config.max_tokens, config.seed)
    return {f"{name}.api": (config.api, chain), f"{name}.api, as judge": (config.api, _judge(config.api))}


def _judge(api: Api) -> Request:
    return judge.request("", "", "", max_tokens=api.judge_tokens)
