"""vLLM itself, in its build for processors: `make test-vllm` installs it and runs these; about half an hour on 2 cores.

One server with adapters serves all tests of a module that need one, because a start takes minutes.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from peft import get_peft_model
from safetensors.torch import load_file

from sifthinker import config as configuration
from sifthinker import scenes
from sifthinker.core import chain, depth_maps, images, prompts, records, tables
from sifthinker.data import depth_estimation
from sifthinker.evaluation import evaluate
from sifthinker.llm import standin
from sifthinker.models import loading, miniature, serving
from sifthinker.scenes import questions
from sifthinker.system import processes
from sifthinker.training import adapters, checkpoints, samplers
from tests.training.fake_vllm_lora import VllmLora
from tests.training.test_ranks import torchrun

ROOT = Path(__file__).parents[2]
RANK = 32
ROWS = 64


def _python() -> Path | None:
    """The interpreter of vLLM's environment: that of SIF_VLLM, of .venv-vllm, or of the vllm on the PATH."""
    named = os.environ.get("SIF_VLLM")
    found = shutil.which("vllm")
    places = [Path(named) / "bin/python"] if named else []
    places += [ROOT / ".venv-vllm/bin/python"]
    places += [Path(found).resolve().with_name("python")] if found else []
    return next((place for place in places if place.with_name("vllm").is_file()), None)


PYTHON = _python()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        PYTHON is None, reason="no vLLM is here: `make test-vllm` installs it into .venv-vllm"
    ),
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes as the miniature knows them, in the SIF schema."""
    file = tmp_path_factory.mktemp("rows") / "rl.parquet"
    tables.write(file, tables.SIF, (_row(number) for number in range(ROWS)))
    return file


def _row(number: int) -> dict[str, Any]:
    scene, _ = next(scenes.stream("sif", 11, 224, 224, start=number, fewest=2, most=4))
    question = next(questions.one_object(scene))
    picture, near = scenes.jpeg(scene), scene.view.depth.astype("float32")
    left, top, right, bottom = scene.things[question.things[0]].box
    box = tuple(round(value / 224, 3) for value in (left, top, right, bottom))
    regions = depth_maps.regions([[records.WHOLE], [box]], near)
    steps = tuple(chain.Step(look, "What is there.") for look in regions)
    return {
        "id": f"scenes/{number}",
        "source": "scenes",
        "dataset": "scenes",
        "split": "train",
        "question": question.text,
        "answer": question.answer,
        "width": 224,
        "height": 224,
        "boxes": [list(box)],
        "image": {"bytes": picture, "path": f"{number}.jpg"},
        "depth_image": {"bytes": depth_maps.picture(near), "path": f"{number}_d.png"},
        "depth_map": depth_maps.encode(near),
        "steps": [[{"box": list(r.box), "depth": r.depth} for r in look] for look in regions],
        "chain": chain.render(chain.Chain(steps, question.answer)),
        "model": "made-up",
        "attempts": 1,
        "prompt_tokens": 0,
        "completion_tokens": 0,
    }


@pytest.fixture(scope="module")
def trained(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature after a short SFT, merged in fp32: it writes chains, and not always the same."""
    folder = tmp_path_factory.mktemp("trained")
    sft = {
        "ranks": 1,
        "deepspeed": "none",
        "precision": "fp32",
        "gradient_checkpointing": False,
        "trackers": [],
    }
    sft |= {"batch": 8, "accumulation": 1, "epochs": 3, "learning_rate": 0.004}
    sft |= {"lora": {"r": 32, "alpha": 64, "dropout": 0.0}}
    for module, settings, more in (
        ("sft", sft, {"dataset": [str(rows)]}),
        ("merge", {"precision": "fp32"}, {"adapter": str(folder / "sft/adapter")}),
    ):
        top = {
            "model": str(miniature.folder("policy")),
            "work": str(folder / "work"),
            "out": str(folder / module),
        }
        model = {"weights": "miniature", "max_pixels": 50176}
        file = folder / f"{module}.yaml"
        file.write_text(yaml.safe_dump({**top, **more, "settings": {"model": model, module: settings}}))
        command = [sys.executable, "-m", f"sifthinker.training.{module}", str(file)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    return folder / "merge"


@pytest.fixture(scope="module")
def vllm(trained: Path, shared_memory: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a server that takes adapters."""
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    wanted = serving.Wanted(trained, "vllm", log, python=PYTHON, lora_rank=RANK)
    with serving.several([wanted]) as (url,):
        yield url


def depths(images: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    settings = configuration.Depth(weights="miniature", size=168)
    return depth_estimation.pictures(images, miniature.folder("depth"), settings)


def test_greedy_replies_equal_those_of_the_embedded_server(vllm: str, trained: Path, tmp_path: Path) -> None:
    """Prompt, pictures, tokens and data type: reply by reply, over every kind of rendered benchmark."""
    scenes.write(tmp_path / "scenes", configuration.Scenes(rows=1, benchmark_rows=8, seed=5))
    benchmarks = tuple(scenes.benchmarks(tmp_path / "scenes"))
    settings = configuration.Evaluate(
        benchmarks=benchmarks, max_tokens=160, concurrency=8, server="transformers"
    )
    model = configuration.Model(weights="miniature", max_pixels=50176)
    said: dict[str, list[str]] = {}
    for name in ("vllm", "transformers"):
        out = tmp_path / name
        out.mkdir()
        with serving.serving(trained, vllm if name == "vllm" else name, tmp_path / f"{name}.log") as url:
            extra = serving.suppression(vllm if name == "vllm" else name, url, trained)
            assert bool(extra) == (name == "vllm")
            served = evaluate.Served(url, serving.MODEL_NAME, name, name, extra=extra)
            evaluate.evaluate(nullcontext(served), model, settings, tmp_path / f"{name}.sqlite", depths, out)
        said[name] = pq.read_table(out / "predictions.parquet")["reply"].to_pylist()
    assert len(said["vllm"]) >= 24
    differing = sum(a != b for a, b in zip(said["vllm"], said["transformers"], strict=True))
    assert differing == 0, f"{differing} of {len(said['vllm'])} replies differ"


# --- GRPO -------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(rows: Path, trained: Path, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Writes the program's configuration for two ZeRO-3 ranks: its name, the server, and what differs."""
    with standin.running(tmp_path / "standin.log") as judge:

        def write(name: str, server: str, **differing: Any) -> Path:
            settings = {
                "generation": "vllm_lora",
                "ranks": 2,
                "deepspeed": "zero3",
                "precision": "fp32",
                "gradient_checkpointing": False,
                "batch": 4,
                "accumulation": 1,
                "generations": 4,
                "max_completion": 160,
                "epochs": 10,
                "max_steps": 3,
                "save_steps": 1,
                "learning_rate": 0.002,
                "temperature": 0.7,  # of the demo; at 1 the suppressed tokens have 1e-4 of a probability
                "lora": {"r": RANK, "alpha": 64, "dropout": 0.05},
                "judge": {"model": "standin"},
                "trackers": [],
                **differing,
            }
            values = {
                "model": str(trained),
                "dataset": [str(rows)],
                "work": str(tmp_path / name / "work"),
                "out": str(tmp_path / name / "out"),
                "ledger": str(tmp_path / f"{name}.sqlite"),
                "judge_base_url": judge,
                "servers": [server],
                "settings": {"model": {"weights": "miniature", "max_pixels": 50176}, "grpo": settings},
            }
            file = tmp_path / f"{name}.yaml"
            file.write_text(yaml.safe_dump(values))
            return file

        yield write


GRPO = "sifthinker.training.grpo"


def gaps(folder: Path) -> list[float]:
    lines = (folder / "out/history.jsonl").read_text().splitlines()
    return [json.loads(line)[samplers.GAP] for line in lines]


def test_two_zero_3_ranks_sample_from_the_policy_that_they_train_and_a_killed_run_goes_on(
    program: Callable[..., Path], vllm: str, tmp_path: Path
) -> None:
    torchrun(2, GRPO, program("straight", vllm))
    found = gaps(tmp_path / "straight")
    print("difference of log-probabilities by step:", found)
    assert len(found) == 3 and max(found) < 1e-4

    config = program("killed", vllm)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", GRPO, str(config)]
    process = subprocess.Popen(
        [sys.executable, *launcher],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    marker = tmp_path / "killed/work/checkpoint-1" / checkpoints.COMPLETE
    deadline = time.monotonic() + 1200
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    processes.end(process.pid, grace=0)
    process.wait()
    assert marker.exists() and not (tmp_path / "killed/out/summary.json").exists()
    torchrun(2, GRPO, config)
    notes = json.loads((tmp_path / "killed/out/summary.json").read_text())["notes"]
    assert notes["resumed_from"] in ("checkpoint-1", "checkpoint-2")
    assert max(gaps(tmp_path / "killed")) < 1e-4
    one, two = (
        load_file(tmp_path / name / "out/adapter/adapter_model.safetensors")
        for name in ("straight", "killed")
    )
    worst = max(float((one[name] - two[name]).abs().max()) for name in one)
    print("adapters, killed and resumed against straight:", worst)
    texts = [
        pq.read_table(tmp_path / n / "out/completions.parquet")["text"].to_pylist()
        for n in ("straight", "killed")
    ]
    print("equal completions:", sum(a == b for a, b in zip(*texts, strict=True)), "of", len(texts[0]))
    assert worst < 1e-4


class Deaf(ThreadingHTTPServer):
    """Passes everything on to vLLM, and has the base answer in the place of every adapter."""

    daemon_threads = True

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.target = url.removesuffix("/v1")


class _Passing(BaseHTTPRequestHandler):
    server: Deaf

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/chat/completions"):
            body = json.dumps({**json.loads(body), "model": serving.MODEL_NAME}).encode()
        kind = {"Content-Type": "application/json"}
        reply = httpx.request(
            self.command, self.server.target + self.path, content=body, headers=kind, timeout=600
        )
        self.send_response(reply.status_code)
        self.send_header("Content-Type", reply.headers.get("content-type", "text/plain"))
        self.send_header("Content-Length", str(len(reply.content)))
        self.end_headers()
        self.wfile.write(reply.content)

    do_GET = do_POST = _pass

    def log_message(self, *_: Any) -> None:
        pass


def test_where_the_adapter_is_not_used_the_run_stops(
    program: Callable[..., Path], vllm: str, tmp_path: Path
) -> None:
    deaf = Deaf(vllm)
    threading.Thread(target=deaf.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{deaf.server_port}/v1"
        ended = torchrun(2, GRPO, program("deaf", url), check=False)
    finally:
        deaf.shutdown()
        deaf.server_close()
    said = re.search(r"error: step (\d): the log-probabilities .* differ by ([\d.e-]+) between", ended.stderr)
    assert said, ended.stderr[-3000:]
    print("without the adapter: step", said[1], "difference", said[2])
    assert said[1] == "2" and float(said[2]) > 1e-3


def test_the_fake_of_the_quick_tests_answers_as_vllm_does(vllm: str, trained: Path, tmp_path: Path) -> None:
    fake = VllmLora(trained)
    threading.Thread(target=fake.serve_forever, daemon=True).start()
    adapter = tmp_path / "adapter"
    torch.manual_seed(0)
    model = get_peft_model(
        loading.load_policy(trained, "fp32"),
        adapters.lora(configuration.Lora(r=8, alpha=16, dropout=0.0)),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(adapter)
    pictures = [images.data_url(scenes.jpeg(next(scenes.stream("sif", 3, 224, 224))[0]))] * 2
    asked = {
        "messages": prompts.with_images(prompts.policy_messages("What color is the object?"), pictures),
        "n": 2,
        "seed": 1,
        "temperature": 0.0,
        "max_tokens": 48,
        "logit_bias": {str(token): -100 for token in loading.picture_tokens(fake.processor)},
        "logprobs": True,
        "top_logprobs": 0,
        "return_token_ids": True,
    }
    talks = [
        ("/load_lora_adapter", {"lora_name": "one", "lora_path": str(adapter)}),
        ("/load_lora_adapter", {"lora_name": "one", "lora_path": str(adapter)}),
        ("/load_lora_adapter", {"lora_name": "two", "lora_path": str(tmp_path / "nowhere")}),
        ("/chat/completions", {**asked, "model": "policy", "n": 1}),
        ("/chat/completions", {**asked, "model": "one", "n": 1}),
        ("/chat/completions", {**asked, "model": "nobody"}),
        ("/chat/completions", {**asked, "model": "one", "temperature": 0.7}),
        ("/unload_lora_adapter", {"lora_name": "one"}),
        ("/unload_lora_adapter", {"lora_name": "one"}),
    ]
    try:
        with httpx.Client(timeout=600, trust_env=False) as client:
            for path, body in talks:
                real, made = (client.post(f"{url}{path}", json=body) for url in (vllm, fake.url))
                assert made.status_code == real.status_code, (path, real.text, made.text)
                if path != "/chat/completions" or real.is_error:
                    continue
                theirs, ours = real.json(), made.json()
                assert ours["prompt_token_ids"] == theirs["prompt_token_ids"]
                for mine, other in zip(ours["choices"], theirs["choices"], strict=True):
                    assert {"index", "token_ids", "logprobs"} <= other.keys()
                    assert len(other["logprobs"]["content"]) == len(other["token_ids"])
                    if body["temperature"] == 0:
                        assert mine["token_ids"] == other["token_ids"]
            listed = [client.get(f"{url}/models").json()["data"] for url in (vllm, fake.url)]
            for found in listed:  # vLLM has the last adapter of the trainings, too
                assert found[0]["id"] == "policy" and found[0]["parent"] is None
                assert all(model["parent"] == "policy" and model["id"] != "one" for model in found[1:])
    finally:
        fake.shutdown()
        fake.server_close()
