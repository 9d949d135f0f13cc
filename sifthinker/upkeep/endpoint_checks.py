"""The servers and endpoints that a configuration names."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from sifthinker.annotation import retry
from sifthinker.config import LOCAL, STANDIN, STARTED, UNNAMED, Api, Config
from sifthinker.upkeep.findings import Finding, examine


def servers(config: Config) -> Iterator[Finding]:
    """Servers of models that the configuration names by their address."""
    if config.evaluate.server not in STARTED:
        yield from examine({"evaluate.server": partial(_running, config)})
    if config.grpo.generation == "vllm_server":
        from sifthinker.training.samplers.trl_samplers import ask_generation_server

        ask_generation_server(config.grpo.vllm_server)
        yield Finding("grpo.vllm_server", "ok", f"{config.grpo.vllm_server} can sample for a training")


def _running(config: Config) -> Iterator[Finding]:
    """The server that is asked by an evaluation, and the model that will be."""
    from sifthinker.evaluation import running_server

    url = config.evaluate.server.rstrip("/")
    entry = running_server.chosen(url, running_server.listed(url), config.evaluate.served_model)
    root = entry.get("root")
    found = f"{url} serves {entry['id']!r}" + (f" from {root}" if root else "")
    yield Finding("evaluate.server", "ok", found)


def endpoints(config: Config, calls: bool, stages: Collection[str] | None = None) -> Iterator[Finding]:
    """The key of every endpoint, and with `calls` one short answer; equal endpoints are asked once.

    Args:
        config: of the run.
        calls: whether one is made to each.
        stages: the labels of those that run; None: all.
    """
    used: dict[str, Api | None] = {
        "annotate": config.annotate.api if config.annotates else None,
        **{
            f"retry.passes[{n}]": retry.over(again, config.annotate).api
            for n, again in enumerate(config.retry.passes)
        },
        "grpo.judge": config.grpo.judge,
        "evaluate.judge": config.evaluate.judge,
    }
    grouped: dict[tuple[str, str, str], tuple[list[str], Api]] = {}
    for field, api in used.items():
        stage = field.partition("[")[0].partition(".")[0]  # "retry.passes[0]": retry
        if api is not None and (stages is None or stage in stages):
            grouped.setdefault((api.base_url, api.model, api.api_key_env), ([], api))[0].append(field)
    for fields, api in grouped.values():
        name = f"endpoint {', '.join(fields)}"
        yield from examine({name: partial(_endpoint, name, api, calls, bool(config.sources))})


def _standin(name: str, real: bool) -> Finding:
    """The stand-in is fine for rendered scenes, and worth a warning for pictures of somebody's."""
    if not real:
        return Finding(name, "ok", "the embedded stand-in: no model, and no key")
    found = "the embedded stand-in answers for your own sources: its replies are made up, and mean nothing"
    return Finding(name, "warning", found, "give the base_url of a model, unless this is a try")


def _endpoint(name: str, api: Api, calls: bool, real: bool) -> Iterator[Finding]:
    from sifthinker import llm
    from sifthinker.llm import judge, keys, local_models
    from sifthinker.models import serving

    if api.base_url == UNNAMED:
        todo = "give its base_url, or a preset; `standin` by name is the embedded stand-in, whose replies are made up"
        yield Finding(name, "error", "no endpoint is named, and there is no default", todo)
        return
    if api.base_url == STANDIN:
        yield _standin(name, real)
        return
    if api.base_url == LOCAL:
        found = f"{local_models.folder(api)}, served by {api.local_server} while the stage runs"
        if api.local_server == "vllm":
            serving.vllm()
        yield Finding(name, "ok", found)
        return
    asked = f"{api.base_url}, model {api.model}"
    has_key = bool(keys.key(api, api.base_url))
    key = f"{api.api_key_env} is set" if has_key else "without a key"
    if not calls:
        yield Finding(name, "ok", f"{asked}: {key}; not called")
        return
    # A ledger of its own: from the run's, a second look would be answered without asking. As a single online call:
    # a batch may take hours.
    brief = {
        "mode": "chat" if api.mode == "batch" else api.mode,
        "retries": 1,
        "timeout": min(api.timeout, 60.0),
    }
    question = judge.request(
        "What colour is the sky?", "blue", "blue", max_tokens=api.judge_tokens
    )  # the shortest call that a run makes
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        llm.Client(api.model_copy(update=brief), Path(folder) / "calls.sqlite") as client,
    ):
        reply = client.ask(question)
    if isinstance(reply, llm.Failure):
        todo = "check base_url and model, and whether its provider has a disturbance"
        yield Finding(name, "error", f"{asked}: {reply.kind}: {reply.detail}", todo)
        return
    tokens = reply.prompt_tokens + reply.completion_tokens
    found = f"{asked}: {reply.model} answered in {time.monotonic() - began:.1f} s, {tokens} tokens; {key}"
    yield Finding(name, "ok", found)
