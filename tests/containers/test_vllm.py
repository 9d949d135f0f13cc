"""The image that serves a merged policy, in its build for processors: what asks it, and how it ends. After test_composed.py."""

from __future__ import annotations

import json
import time

import httpx
import pytest

from tests.containers.composed import PROJECT, SERVED, Stack, docker, inside, step, until
from tests.containers.nights import ASKED, SCENES

pytestmark = [pytest.mark.slow, pytest.mark.containers, pytest.mark.timeout(3600)]
CONTAINER = f"{PROJECT}-vllm-1"
READY = 900  # seconds in which the engine starts on busy cores


def health(stack: Stack) -> int:
    """The status of its page of health; 0 while nothing listens."""
    try:
        return httpx.get(f"http://127.0.0.1:{stack.serve}/health", timeout=30).status_code
    except httpx.TransportError:
        return 0


def state(of: str) -> str:
    return docker("inspect", "--format", f"{{{{{of}}}}}", CONTAINER).strip()


def test_a_merged_policy_of_the_store_is_served_and_asked(stack: Stack) -> None:
    with step("the image that serves, in its build for processors") as found:
        began = time.monotonic()
        stack.compose("build", "vllm", model="merge")
        found(f"built in {time.monotonic() - began:.0f} s")
        [torch] = inside(stack, "serve")
        assert "+cpu" in torch
    find = "ls -td merge/*/config.json | head -1 | xargs dirname"
    model = stack.inside("worker-cpu", "sh", "-c", f"cd artifacts && {find}").strip()
    with step("the served image is ready") as found:
        began = time.monotonic()
        stack.compose("up", "--detach", "--no-build", "--no-deps", "vllm", model=model)
        assert health(stack) != httpx.codes.OK, "ready means that the model is loaded"
        until(lambda: health(stack) == httpx.codes.OK, "it answers", READY)
        found(f"{model} after {time.monotonic() - began:.0f} s")
        until(lambda: state(".State.Health.Status") == "healthy", "Docker has seen it", 120)
    with step("an OpenAI request") as found:
        body = {
            "model": "policy",
            "messages": [{"role": "user", "content": "What is there?"}],
            "max_tokens": 8,
        }
        url = f"http://127.0.0.1:{stack.serve}/v1/chat/completions"
        said = httpx.post(url, json=body, timeout=300).raise_for_status().json()
        assert said["choices"][0]["message"]["content"] and said["usage"]["completion_tokens"] <= 8
        found(json.dumps(said["choices"][0]["message"]["content"]))
    with step("sif ask, through the network of the services") as found:
        options = [word for line in (*SCENES, *ASKED, "model.weights=miniature") for word in ("--set", line)]
        picture = "/app/sifthinker/models/miniature/asked.jpg"
        question = "What is in the picture?"
        command = ("sif", "ask", picture, question, "--out", "/run/sif/asked", "--server", SERVED, *options)
        answer = stack.inside("worker-cpu", *command)
        assert "answer " in answer and "files" in answer, answer
        found(" ".join(answer.split())[-160:])


def test_it_ends_in_time_when_it_is_stopped(stack: Stack) -> None:
    with step("docker compose stop of it") as found:
        began = time.monotonic()
        stack.compose("stop", "vllm", model="merge")
        code = state(".State.ExitCode")
        assert code in ("0", "143"), f"{code}: after stop_grace_period it is killed, which is 137"
        found(f"{time.monotonic() - began:.0f} s, exit code {code}")
    stack.compose("rm", "--force", "--stop", "vllm", model="merge")
