"""lmms-eval on V*Bench: its own task functions, asked and scored by it, in an environment of its own.

`task(folder)` writes the questions of a V*Bench folder as a task of lmms-eval, which reads Parquet. `Harness` starts this
file as a program of that environment and lets it evaluate the task as often as wanted, its imports not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

NAME = "sif_vstar"
# lmms-eval's own pictures, scores and aggregation of V*Bench. Its own text would name the options otherwise than the
# published question does, so the question is asked as it stands.
_TASK = """\
task: {name}
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function functions.vstar_doc_to_visual
doc_to_text: !function functions.text
doc_to_target: label
generation_kwargs: {{max_new_tokens: {max_tokens}, temperature: 0, do_sample: false}}
process_results: !function functions.vstar_process_results
metric_list:
  - {{metric: vstar_overall_acc, aggregation: !function functions.vstar_aggregate_results, higher_is_better: true}}
metadata:
  - version: 0.0
"""
_FUNCTIONS = """\
from lmms_eval.tasks.vstar_bench.utils import vstar_aggregate_results, vstar_doc_to_visual, vstar_process_results


def text(doc, kwargs=None):
    return doc["text"]
"""
_FEATURES = {
    "image": {"_type": "Image"},
    **{name: {"dtype": "string", "_type": "Value"} for name in ("text", "category", "label", "question_id")},
}


def task(benchmark: Path, out: Path, max_tokens: int) -> Path:
    """The folder of the task, made of a V*Bench folder; the ids of the questions are those that V*Bench gives."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for line in (benchmark / "test_questions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        picture = {"bytes": (benchmark / row["image"]).read_bytes(), "path": None}
        names = ("text", "category", "label", "question_id")
        rows.append({"image": picture, **{name: str(row[name]) for name in names}})
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            *((name, pa.string()) for name in _FEATURES if name != "image"),
        ]
    )
    table = pa.Table.from_pylist(rows, schema).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": _FEATURES}})}
    )
    pq.write_table(table, out / "vstar.parquet")
    text = _TASK.format(name=NAME, data=json.dumps(str(out / "vstar.parquet")), max_tokens=max_tokens)
    (out / "task.yaml").write_text(text, encoding="utf-8")
    (out / "functions.py").write_text(_FUNCTIONS, encoding="utf-8")
    return out


class Harness:
    """lmms-eval in a process of its own environment, ready to evaluate a task through a server."""

    def __init__(
        self, python: Path, task: Path, url: str, model: str, together: int, backend: str = "openai"
    ) -> None:
        """Starts it, and returns when it has imported what it needs.

        Args:
            python: of lmms-eval's environment.
            task: folder of `task`.
            url: of the server, with /v1.
            model: as the server knows it.
            together: requests in flight.
            backend: lmms-eval's client: "openai" (threads) or "async_openai" (faster, where pictures are small).
        """
        self._out = task / "samples.json"
        command = [str(python), __file__, str(task), url, model, str(together), str(self._out), backend]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(task / "hub"), "NO_PROXY": "*"}
        environment["LMMS_IMAGE_ENCODE_FORMAT"] = "JPEG"  # as the files are; PNG, its default, takes longer
        for name in ("PYTHONPATH", "VIRTUAL_ENV"):
            environment.pop(name, None)
        self._log = (task / "lmms-eval.log").open("w")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
        )
        self._wait()

    def evaluate(self) -> list[dict[str, Any]]:
        """Each question's `id`, `reply`, the letter it was `read_as`, and lmms-eval's `score`."""
        assert self._process.stdin
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self._wait()
        found: list[dict[str, Any]] = json.loads(self._out.read_text(encoding="utf-8"))
        return found

    def end(self) -> None:
        """Ends it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def _wait(self) -> None:
        assert self._process.stdout
        if self._process.stdout.readline() != "done\n":
            raise RuntimeError(f"lmms-eval failed:\n{Path(self._log.name).read_text()[-3000:]}")


def _program(task: str, url: str, model: str, together: int, out: Path, backend: str) -> None:
    """In lmms-eval's environment: evaluates the task for every line of the standard input."""
    said, sys.stdout = sys.stdout, sys.stderr  # what lmms-eval prints is no answer of ours
    import lmms_eval.models.chat.async_openai  # imported here, so that its time is not counted
    import lmms_eval.models.chat.openai  # noqa: F401
    from lmms_eval import evaluator
    from lmms_eval.tasks import TaskManager

    manager = TaskManager("ERROR", include_path=task)
    in_flight = {"openai": "num_concurrent", "async_openai": "num_cpus"}[backend]
    settings = f"model_version={model},base_url={url},api_key=none,{in_flight}={together},max_retries=1"
    print("done", file=said, flush=True)
    for _ in sys.stdin:
        results = evaluator.simple_evaluate(
            model=backend,
            model_args=settings,
            tasks=[NAME],
            task_manager=manager,
            log_samples=True,
            bootstrap_iters=0,
            cli_args=None,
        )
        samples = [
            {
                "id": sample["vstar_overall_acc"]["question_id"],
                "reply": sample["filtered_resps"][0],
                "read_as": sample["vstar_overall_acc"]["prediction"],
                "score": sample["vstar_overall_acc"]["score"],
            }
            for sample in results["samples"][NAME]
        ]
        out.write_text(json.dumps(samples), encoding="utf-8")
        print("done", file=said, flush=True)


if __name__ == "__main__":
    _program(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]), sys.argv[6])
