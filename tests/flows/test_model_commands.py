"""`sif serve` and `sif depth`, as a person starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from PIL import Image

from sifthinker.core import images
from sifthinker.models import miniature
from tests.odd_pictures import saved

pytestmark = pytest.mark.e2e
SIF = [sys.executable, "-m", "flows"]


def settings(tmp_path: Path) -> list[str]:
    fields = (f"store={tmp_path / 'store'}", "depth.weights=miniature", "depth.size=84")
    return [word for field in fields for word in ("--set", field)]


def picture() -> bytes:
    return saved(Image.linear_gradient("L").resize((224, 168)).convert("RGB"))


def test_serve_says_where_it_is_adds_what_the_policy_wants_and_ends_at_ctrl_c(tmp_path: Path) -> None:
    command = [*SIF, "serve", str(miniature.folder("policy")), "--port", "0", "--model-name", "mine"]
    process = subprocess.Popen(
        [*command, "--chain", "--reply", "whole", *settings(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    try:
        name, url = process.stdout.readline().split()
        assert name == "URL" and process.stdout.readline().split() == ["model", "mine"]
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        assert client.models.list().data[0].to_dict()["root"] is None, (
            "its prompts are not those of a request"
        )
        photo = {"type": "image_url", "image_url": {"url": images.data_url(picture(), "image/png")}}
        asked: Any = [{"role": "user", "content": [photo, {"type": "text", "text": "What is it?"}]}]
        reply = client.chat.completions.create(model="mine", messages=asked, max_tokens=4, temperature=0)
        assert reply.usage and reply.usage.prompt_tokens > 150, "two pictures and the prompt of the chain"
        with pytest.raises(openai.BadRequestError, match="one user message with one picture"):
            client.chat.completions.create(
                model="mine", messages=[{"role": "user", "content": "Hello"}], max_tokens=4
            )
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == len(os.sched_getaffinity(0))
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
        deadline = time.monotonic() + 10
        while any(child.is_running() and child.status() != "zombie" for child in children):
            assert time.monotonic() < deadline, "a process of the server is left"
            time.sleep(0.1)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_depth_makes_a_folder_and_names_what_it_cannot_use(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture())
    (folder / "broken.jpg").write_bytes(b"no picture")
    command = [*SIF, "depth", str(folder), "--out", str(tmp_path / "depth"), *settings(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 pictures: 1 depth pictures made, 0 were there, 1 rejected" in done.stdout
    assert "rejected: image-format" in done.stdout and "Traceback" not in done.stderr
    assert images.rgb((tmp_path / "depth" / "a.png.png").read_bytes()).size == (224, 168)
