"""lmms-eval, in an environment of its own, on V*Bench against `sif serve`: the replies and both scores are ours."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sifthinker import config
from sifthinker.evaluation.benchmarks import BENCHMARKS, replies
from sifthinker.evaluation.benchmarks.question import Question
from sifthinker.store.artifacts import Store
from sifthinker.store.runs import runs
from tests.benchmarks import lmms, others

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
TOKENS = 160
SIF = str(Path(sys.executable).with_name("sif"))


@pytest.fixture(scope="module")
def store(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the demo, as far as a model that writes chains."""
    root = tmp_path_factory.mktemp("store")
    more = [f"store={root}", "scenes.rows=600", "scenes.benchmark_rows=24"]
    sets = [word for field in more for word in ("--set", field)]
    done = subprocess.run(
        [SIF, "run", "--config", "demo", *sets, "--stop-after", "merge-sft"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return root


@contextmanager
def served(store: Path, reply: str) -> Iterator[str]:
    """The URL of `sif serve` with the store's last model, which adds depth picture and prompt itself."""
    made = runs(Store(store))[0]["stages"]["merge-sft"]
    folder = store / made["stage"] / made["key"]
    options = ["--port", "0", "--model-name", "mine", "--chain", "--reply", reply, "--set", f"store={store}"]
    process = subprocess.Popen([SIF, "serve", str(folder), *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield process.stdout.readline().split()[1]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def evaluated(store: Path, benchmark: Path, out: Path, reply: str) -> dict[str, dict[str, object]]:
    task = lmms.task(benchmark, out, TOKENS)
    with served(store, reply) as url:
        harness = lmms.Harness(others.environment("lmms-eval"), task, url, "mine", 8)
        try:
            return {row["id"]: row for row in harness.evaluate()}
        finally:
            harness.end()


def test_lmms_eval_gets_our_replies_and_scores_them_as_we_do(store: Path, tmp_path: Path) -> None:
    scenes = runs(Store(store))[0]["stages"]["scenes"]
    benchmark = store / scenes["stage"] / scenes["key"] / "data" / "vstar"
    source = config.Benchmark(name="vstar", path=benchmark, images=benchmark)
    questions = {
        item.id.rpartition("/")[2]: item
        for item in BENCHMARKS["vstar"].load(source)
        if isinstance(item, Question)
    }
    answers = evaluated(store, benchmark, tmp_path / "answer", "answer")
    whole = evaluated(store, benchmark, tmp_path / "whole", "whole")
    assert answers.keys() == whole.keys() == questions.keys() and len(answers) == 24
    read = 0
    for name, question in questions.items():
        said = replies.read(str(whole[name]["reply"]), True)
        assert answers[name]["reply"] == said.text, "one model, asked twice: the answer block of its chain"
        score = BENCHMARKS["vstar"].strict(question, said).score
        assert answers[name]["score"] == score == BENCHMARKS["vstar"].official(question, said).score
        read += bool(said.text)
    assert read > 12, json.dumps(whole, indent=1)
