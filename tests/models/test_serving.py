"""The model server as a child process: it answers, and nothing of it is left behind."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from sifthinker.core import images, prompts
from sifthinker.core.errors import UserError
from sifthinker.models import loading, serving, vllm_command
from sifthinker.models.budget import MERGED
from sifthinker.pretraining import build
from tests import odd_pictures
from tests.machine import is_running

MAX_PIXELS = 112 * 84  # of the folder's processor: 4 x 3 tokens for an image of that aspect
PICTURES = [Image.linear_gradient("L").resize((640, 480 + 8 * turn)).rotate(40 * turn) for turn in range(8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    loading.build_tiny("qwen2_5_vl", 0, path)
    loading.load_processor(path, MAX_PIXELS).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def client(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    with serving.serving(folder, "transformers", tmp_path_factory.mktemp("log") / "server.log") as url:
        yield openai.OpenAI(base_url=url, api_key="none", max_retries=0)


def url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def ask(client: openai.OpenAI, turn: int, **more: Any) -> Any:
    pair = [PICTURES[turn], PICTURES[turn - 1]]
    messages: Any = prompts.with_images(prompts.policy_messages(f"What is {turn}?"), [url(i) for i in pair])
    settings = {"model": "policy", "temperature": 0, "max_tokens": 12, "seed": 0} | more
    return client.chat.completions.create(messages=messages, **settings)


def test_greedy_replies_are_those_of_the_model_whatever_else_is_asked(
    client: openai.OpenAI, folder: Path
) -> None:
    alone = [ask(client, turn) for turn in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda turn: ask(client, turn), range(8)))
    assert [r.choices[0].message.content for r in alone] == [r.choices[0].message.content for r in together]

    processor, model = loading.load_processor(folder), loading.load_policy(folder, "fp32")
    inputs = loading.encode(processor, prompts.policy_messages("What is 1?"), [PICTURES[1], PICTURES[0]])
    assert alone[1].model == "policy"
    assert alone[1].usage.prompt_tokens == inputs["input_ids"].shape[1]  # the folder's pixel budget holds
    tokens = model.generate(**inputs, do_sample=False, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :]
    assert alone[1].choices[0].message.content == processor.decode(tokens, skip_special_tokens=True)


def test_a_sampled_reply_is_that_of_its_seed_whatever_else_is_asked(client: openai.OpenAI) -> None:
    def said(seed: int) -> str | None:
        reply: str | None = ask(client, 1, temperature=1, seed=seed).choices[0].message.content
        return reply

    alone = [said(seed) for seed in range(8)]
    assert len(set(alone)) == 8
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(said, range(8))) == alone


def test_a_request_s_pictures_are_turned_and_made_8_bit_as_in_training(client: openai.OpenAI) -> None:
    """A photograph on its side, and 16-bit grey, which transformers would make all white."""

    def said(data: bytes, kind: str) -> Any:
        address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        messages: Any = prompts.with_images(prompts.policy_messages("What?", False), [address])
        settings: Any = {"model": "policy", "temperature": 0, "max_tokens": 12}
        reply = client.chat.completions.create(messages=messages, **settings)
        return reply.usage.prompt_tokens if reply.usage else 0, reply.choices[0].message.content

    sideways, upright = odd_pictures.oriented("JPEG", 6)
    plain = Image.fromarray(np.ascontiguousarray(upright))
    assert said(sideways, "jpeg") == said(odd_pictures.saved(plain), "png")
    deep, pixels = odd_pictures.MODES["I;16"]
    assert said(deep, "png") == said(odd_pictures.saved(Image.fromarray(pixels)), "png")
    white = odd_pictures.saved(Image.new("RGB", (odd_pictures.WIDTH, odd_pictures.HEIGHT), "white"))
    assert said(deep, "png") != said(white, "png")  # or this test tells nothing
    for bad in (b"no picture", sideways[:300]):
        messages = prompts.with_images(prompts.policy_messages("What?", False), [images.data_url(bad)])
        body = {"model": "policy", "messages": messages}
        reply = httpx.post(f"{client.base_url}chat/completions", json=body, trust_env=False)
        assert reply.status_code == 400
        assert reply.json()["error"]["message"].startswith("image-")


def test_another_form_of_request_is_answered_too(client: openai.OpenAI) -> None:
    reply = client.completions.create(model="policy", prompt="What is 1?", temperature=0, max_tokens=4)
    assert reply.usage and reply.usage.completion_tokens == 4


def test_a_chain_is_given_whole(tmp_path: Path) -> None:
    """What stands in <think> is a part of the reply, wherever the model that is served comes from."""
    folder = tmp_path / "policy"
    loading.fetch("miniature", None, "policy", "qwen2_5_vl", 0, folder)
    said = '<think>\n<area>[{"bbox_2d": [0.0, 0.0, 1.0, 1.0], "depth": 0.512}]</area>'
    messages: Any = [{"role": "user", "content": build.SAY.format(query=said)}]
    with serving.serving(folder, "transformers", tmp_path / "server.log") as address:
        asked = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
        reply = asked.chat.completions.create(messages=messages, model="policy", temperature=0, max_tokens=40)
    assert (reply.choices[0].message.content or "").startswith("<think>\n<area>")


def test_the_one_model_is_listed_and_others_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        ask(client, 1, model="another")
    assert [model.id for model in client.models.list()] == ["policy"]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program to be written that is started instead of the server."""
    program = tmp_path / "program"
    program.touch(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    return program


def test_a_server_that_ends_is_an_error_with_the_end_of_its_log(fake: Path, tmp_path: Path) -> None:
    fake.write_text("#!/bin/sh\necho no such weights\nexit 3\n")
    with (
        pytest.raises(serving.ServerFailed, match=r"(?s)ended with status 3.*no such weights"),
        serving.serving(tmp_path, "transformers", tmp_path / "log"),
    ):
        pass


def test_a_servers_explanation_of_a_users_mistake_is_shown_in_place_of_its_log(
    fake: Path, tmp_path: Path
) -> None:
    said = {
        "kind": "user",
        "program": "server",
        "message": "no processor in it",
        "rank": 0,
        "host": "a",
        "advice": "",
    }
    fake.write_text(f"#!/bin/sh\necho '{json.dumps(said)}' > $SIF_PROGRAM/error.json\nexit 2\n")
    with (
        pytest.raises(UserError, match=r"^no processor in it$"),
        serving.serving(tmp_path, "transformers", tmp_path / "log"),
    ):
        pass


def test_a_server_that_does_not_answer_is_ended_with_its_children(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(serving._GRACE, "transformers", 0.2)
    child = tmp_path / "child"
    fake.write_text(f"#!/bin/sh\ntrap '' TERM\nsleep 100 &\necho $! > {child}\nwait\n")
    with (
        pytest.raises(serving.ServerFailed, match="did not answer within 1 s"),
        serving.serving(tmp_path, "transformers", tmp_path / "log", timeout=1),
    ):
        pass
    assert not is_running(int(child.read_text()))


def test_a_server_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    child = (
        "import os, time; from sifthinker.system import processes; parent = os.getppid(); "
        "processes.end_with(parent); print(os.getpid(), flush=True); time.sleep(100)"
    )
    start = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], start_new_session=True)"
    )
    parent = subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert is_running(pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


def test_a_server_that_runs_is_only_passed_on(tmp_path: Path) -> None:
    with serving.serving(tmp_path, "http://somewhere:8000/v1/", tmp_path / "log") as url:
        assert url == "http://somewhere:8000/v1"


@pytest.mark.parametrize("server", ["sglang", "vllm"])
def test_a_server_that_cannot_be_had_is_refused(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(UserError, match=r"evaluate\.server"),
        serving.serving(tmp_path, server, tmp_path / "log"),
    ):
        pass


def test_vllm_is_given_name_images_data_type_and_the_pixel_budget_of_the_folder(folder: Path) -> None:
    command = vllm_command.command(folder, 8001, "policy")
    assert command[:3] == ["vllm", "serve", str(folder)]
    options = dict(zip(command[3::2], command[4::2], strict=True))
    assert options["--dtype"] == "float32"
    assert (options["--host"], options["--port"]) == ("127.0.0.1", "8001")
    assert options["--served-model-name"] == "policy"
    assert json.loads(options["--limit-mm-per-prompt"]) == {"image": 2, "video": 0}
    assert json.loads(options["--mm-processor-kwargs"])["size"]["longest_edge"] == MAX_PIXELS
    assert "--max-model-len" not in command, "what is asked is not known"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float16"}, "float16"),  # as earlier versions of transformers name it
        ({"text_config": {"dtype": "float32"}}, "float32"),
        ({"dtype": "torch.bfloat16", "text_config": {"dtype": "float32"}}, "bfloat16"),
        ({"dtype": "auto", "text_config": None}, "auto"),
        ({}, "auto"),
    ],
)
def test_the_data_type_is_that_of_the_folder(tmp_path: Path, config: dict[str, Any], expected: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert vllm_command.dtype(tmp_path) == expected


def test_vllm_with_adapters_gets_a_rank_that_it_has_and_gives_the_log_probabilities_of_what_was_sampled(
    tmp_path: Path,
) -> None:
    options = vllm_command.Options(lora_rank=48, memory=0.3, context=5476)
    command = vllm_command.command(tmp_path, 8001, "policy", options)
    for name, value in (
        ("--max-lora-rank", "64"),
        ("--logprobs-mode", "processed_logprobs"),
        ("--gpu-memory-utilization", "0.3"),
        ("--max-model-len", "5476"),
    ):
        assert command[command.index(name) + 1] == value
    assert "--enable-lora" in command and "--no-enable-chunked-prefill" not in command
    made = vllm_command.environment({"VLLM_CPU_KVCACHE_SPACE": "4"}, options)
    assert made["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True" and made["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in vllm_command.environment({})
    with pytest.raises(ValueError, match="rank 512 at most"):
        vllm_command.command(tmp_path, 8001, "policy", vllm_command.Options(lora_rank=513))


def test_vllm_s_build_for_processors_is_told_apart_by_its_version(tmp_path: Path) -> None:
    command = vllm_command.command(tmp_path, 8001, "policy", vllm_command.Options(cpu=True, memory=0.3))
    assert "--no-enable-chunked-prefill" in command and "--gpu-memory-utilization" not in command


@pytest.mark.parametrize(
    ("words", "port", "more"),
    [
        (["FOLDER"], "8000", []),
        (["FOLDER", "--port", "8001", "--", "--max-model-len", "99"], "8001", ["--max-model-len", "99"]),
        (["--port", "8001", "FOLDER", "--", "--port-of-vllm", "1"], "8001", ["--port-of-vllm", "1"]),
        # as the image for processors is started with options of its user's
        (
            ["FOLDER", "--", "--one", "--", "--max-model-len", "99"],
            "8000",
            ["--one", "--max-model-len", "99"],
        ),
    ],
)
def test_by_hand_options_after_two_dashes_are_those_of_vllm(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], port: str, more: list[str]
) -> None:
    ran = list[str]()
    monkeypatch.setattr("os.execvpe", lambda _, line, __: ran.extend(line))
    monkeypatch.setattr("sys.argv", ["vllm_command", *(w.replace("FOLDER", str(folder)) for w in words)])
    vllm_command.main()
    assert ran[: len(ran) - len(more)] == vllm_command.command(folder, int(port), "policy")
    assert ran[len(ran) - len(more) :] == more


def test_by_hand_a_folder_that_no_merge_wrote_is_warned_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`budgeted` would replace its processor; this program cannot, since it is copied without the package."""
    monkeypatch.setattr("os.execvpe", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["vllm_command", str(folder)])
    vllm_command.main()
    assert f"{folder}: no merge of this project wrote it" in capsys.readouterr().err
    (folder / MERGED).write_text("{}")
    vllm_command.main()
    assert not capsys.readouterr().err


def test_by_hand_an_option_that_is_not_known_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["vllm_command", str(folder), "--max-model-len", "99"])
    with pytest.raises(SystemExit):
        vllm_command.main()
    assert "[-- options of vllm serve]" in capsys.readouterr().err


FAKE_VLLM = """#!{python}
import os, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
here = Path(__file__).parent
# The engine: a child in the same group that must not be told to end by anybody but its parent.
engine = subprocess.Popen([sys.executable, "-c", "import signal, sys, time; "
    "signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1], 'w').close(), sys.exit())); time.sleep(100)",
    str(here / "engine-was-told")])
def end(*_):
    engine.kill()
    engine.wait()
    (here / "ended").write_text(" ".join(sys.argv[1:]))
    os._exit(0)
signal.signal(signal.SIGTERM, end)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{{"data": [{{"id": "policy", "owned_by": "vllm"}}]}}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def test_vllm_alone_is_told_to_end_and_ends_its_engine_itself(folder: Path, tmp_path: Path) -> None:
    program = tmp_path / "vllm"
    program.write_text(FAKE_VLLM.format(python=sys.executable))
    program.chmod(0o755)
    began = time.monotonic()
    with serving.serving(folder, "vllm", tmp_path / "log", python=tmp_path / "python") as address:
        assert serving.suppression("vllm", address, folder) == serving.suppression(address, address, folder)
        bias = serving.suppression("vllm", address, folder)["logit_bias"]
        assert bias == {str(token): -100 for token in loading.picture_tokens(loading.load_processor(folder))}
    assert "--dtype float32" in (tmp_path / "ended").read_text(), (tmp_path / "log").read_text()
    assert not (tmp_path / "engine-was-told").exists()
    assert time.monotonic() - began < 20, "it was not waited for in vain"


def test_a_server_that_suppresses_picture_tokens_itself_is_told_nothing(folder: Path) -> None:
    assert serving.suppression("transformers", "http://127.0.0.1:9/v1", folder) == {}
    assert serving.suppression("http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1", folder) == {}
