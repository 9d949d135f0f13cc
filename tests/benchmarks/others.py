"""What people use otherwise, each in an environment of its own, because their requirements and ours exclude each other.

`environment(name)` installs it once, from the package index, into build/others/<name>. Run as a program of such an
environment, this file is the other way itself: `python others.py distilabel URL ROWS.jsonl OUT.jsonl TOGETHER`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PINS = {
    "dvc": ("dvc==3.67.1",),
    "metaflow": ("metaflow==2.19.39",),
    # torch and torchvision have to be of one build, and nothing that is asked here uses torchvision.
    "lmms-eval": (
        "lmms-eval==0.7.3",
        "torch==2.13.0",
        "transformers==5.24.0",
        "datasets==5.2.0",
        "openai==3.57.0",
        "filelock==3.32.7",
    ),
    "distilabel": ("distilabel[openai]==1.5.3", "datasets==3.6.0", "requests==2.34.2"),
}
_WITHOUT = {"lmms-eval": "torchvision"}
_MIB = 1 << 20  # what a stage of the equal DAG writes, bytes


def environment(name: str) -> Path:
    """The interpreter of an environment that holds `name`, made where there is none.

    Raises:
        subprocess.CalledProcessError: it does not install here.
    """
    folder = ROOT / "build" / "others" / name
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists() or ready.read_text() != " ".join(PINS[name]):
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PINS[name]], check=True, stdout=subprocess.DEVNULL)
        if name in _WITHOUT:
            remove = [str(python), "-m", "pip", "uninstall", "--quiet", "--yes", _WITHOUT[name]]
            subprocess.run(remove, check=True, stdout=subprocess.DEVNULL)
        ready.write_text(" ".join(PINS[name]))
    return python


def dvc(folder: Path, stages: int) -> Callable[[], None]:
    """`dvc repro` of a chain of stages, made once; each call finds nothing changed."""
    python = environment("dvc")
    folder.mkdir()
    (folder / "stage.py").write_text(_STAGE)
    described = {
        f"stage-{number}": {
            "cmd": f"{python} stage.py {number}",
            "deps": ["stage.py", *([f"{number - 1}.bin"] if number else [])],
            "outs": [f"{number}.bin"],
        }
        for number in range(stages)
    }
    (folder / "dvc.yaml").write_text(json.dumps({"stages": described}))
    given = {**os.environ, "DVC_NO_ANALYTICS": "1"}

    def run(*arguments: str) -> str:
        command = [str(python), "-m", "dvc", *arguments]
        return subprocess.run(
            command, cwd=folder, env=given, check=True, capture_output=True, text=True
        ).stdout

    run("init", "--no-scm", "--quiet")
    run("config", "core.check_update", "false")
    run("repro")

    def again() -> None:
        assert run("repro").count("didn't change, skipping") == stages

    return again


def metaflow(folder: Path, stages: int) -> Callable[[], None]:
    """Metaflow's `resume` of a finished chain of stages: each call clones what every stage gave."""
    python = environment("metaflow")
    folder.mkdir()
    steps = ["start", *(f"stage_{number}" for number in range(1, stages - 1)), "end"]
    body = [
        f"    @step\n    def {name}(self):\n        self.data_{number} = bytes([{number}]) * {_MIB}\n"
        + (f"        self.next(self.{steps[number + 1]})\n" if name != "end" else "")
        for number, name in enumerate(steps)
    ]
    text = "from metaflow import FlowSpec, step\n\nclass Chain(FlowSpec):\n" + "\n".join(body)
    (folder / "chain.py").write_text(text + '\nif __name__ == "__main__":\n    Chain()\n')
    given = {
        **os.environ,
        "METAFLOW_USER": "benchmark",
        "METAFLOW_HOME": str(folder / "home"),
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(folder / "store"),
    }

    def run(*arguments: str) -> str:
        command = [str(python), "chain.py", "--no-pylint", *arguments]
        return subprocess.run(
            command, cwd=folder, env=given, check=True, capture_output=True, text=True
        ).stdout

    run("run", "--run-id-file", "first")
    first = (folder / "first").read_text().strip()

    def again() -> None:
        assert run("resume", "--origin-run-id", first).count("Cloning previously run task") == stages

    return again


_STAGE = f"""import sys
from pathlib import Path

number = int(sys.argv[1])
data = Path(f"{{number - 1}}.bin").read_bytes() if number else bytes({_MIB})
Path(f"{{number}}.bin").write_bytes(bytes([number]) + data[1:])
"""


def distilabel(url: str, source: Path, out: Path, together: int) -> None:
    """In distilabel's environment: asks the endpoint for every row's messages, `together` at once."""
    from distilabel.models import OpenAILLM
    from distilabel.pipeline import Pipeline
    from distilabel.steps import LoadDataFromDicts
    from distilabel.steps.tasks import ChatGeneration

    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    with Pipeline("annotate") as pipeline:
        load = LoadDataFromDicts(data=rows, batch_size=together)
        settings = {"max_new_tokens": 2048}
        model = OpenAILLM(model="m", base_url=url, api_key="none", generation_kwargs=settings)
        load >> ChatGeneration(llm=model, input_batch_size=together)
    found = pipeline.run(use_cache=False)["default"]["train"]
    with out.open("w", encoding="utf-8") as file:
        for row in found:
            file.write(json.dumps({"id": row["id"], "reply": row["generation"]}) + "\n")


if __name__ == "__main__":
    distilabel(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
