"""What is left out of an image is missed by whoever runs there: the files that it would have, used as it uses them.

tests/infra/test_prefect.py registers the deployments from these files, as the container `deploy` does.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.infra import image

IMAGES = ("worker.Dockerfile", "train.Dockerfile")


@pytest.mark.e2e
@pytest.mark.parametrize("dockerfile", IMAGES)
def test_every_module_can_be_imported_from_the_files_of_an_image(dockerfile: str, tmp_path: Path) -> None:
    made = image.build(dockerfile, tmp_path)
    rooms = ("sifthinker", "tasks", "flows", "infra")
    modules = [
        ".".join(file.relative_to(image.ROOT).with_suffix("").parts)
        for room in rooms
        for file in sorted((image.ROOT / room).rglob("*.py"))
    ]
    assert {"infra.deploy", "infra.automations", "flows.commands.main"} <= set(modules)
    program = (
        "import importlib.util, sys\n"
        "found = {name: importlib.util.find_spec(name) for name in sys.argv[1:]}\n"
        "missing = [name for name, spec in found.items() if spec is None]\n"
        "import flows.commands.main, infra.automations, infra.deploy\n"
        "print(missing, flows.commands.main.__file__, infra.automations.__file__, infra.deploy.ROOT, sep='\\n')"
    )
    done = run(made, "-c", program, *modules)
    missing, cli, alerts, root = done.stdout.splitlines()
    assert missing == "[]"
    assert {Path(cli).parents[2], Path(alerts).parents[1], Path(root)} == {made}


@pytest.mark.e2e
def test_the_servers_image_imports_every_flow_without_what_only_workers_have(tmp_path: Path) -> None:
    """`deploy` reads the forms of the deployments there: from a flow that cannot be imported Prefect only guesses them."""
    made = image.build("worker.Dockerfile", tmp_path)
    deployments = yaml.safe_load((made / "infra/prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    flows = {one["entrypoint"].split(":")[0].removesuffix(".py").replace("/", ".") for one in deployments}
    project = tomllib.loads((image.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [re.split(r"[<>=\[]", name)[0] for name in project["optional-dependencies"]["train"]]
    program = (
        "import importlib, sys\n"
        "absent = set(sys.argv[1].split())\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in absent:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "for name in sys.argv[2:]:\n"
        "    importlib.import_module(name)\n"
        "print(*sorted(absent & set(sys.modules)), sep='\\n')"
    )
    modules = " ".join(name.replace("-", "_") for name in named)
    assert "torch" in named and "transformers" in named and {"flows.nightly", "flows.reproduce"} <= flows
    assert run(made, "-c", program, modules, *sorted(flows)).stdout.strip() == ""


@pytest.mark.parametrize("dockerfile", IMAGES)
def test_an_image_has_what_the_deployments_and_the_command_read(dockerfile: str, tmp_path: Path) -> None:
    made = image.build(dockerfile, tmp_path)
    for deployment in yaml.safe_load((made / "infra/prefect.yaml").read_text(encoding="utf-8"))[
        "deployments"
    ]:
        assert (made / deployment["entrypoint"].split(":")[0]).is_file()
    for file in sorted((image.ROOT / "flows" / "configs").glob("*.yaml")):
        assert (made / "flows" / "configs" / file.name).read_bytes() == file.read_bytes()
    shown = run(made, "-c", "from flows.commands.main import main; main()", "doctor", "--help")
    assert "--no-calls" in shown.stdout


@pytest.mark.e2e
def test_deploy_runs_from_the_files_of_the_image_and_says_what_it_lacks(tmp_path: Path) -> None:
    made = image.build("worker.Dockerfile", tmp_path)
    without = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "SIF_"))}
    done = subprocess.run(
        [sys.executable, "infra/deploy.py"],
        cwd=made,
        env={**without, "PYTHONPATH": str(made)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "set PREFECT_API_URL" in done.stderr


def test_nothing_local_reaches_the_builder(tmp_path: Path) -> None:
    files = {file.as_posix() for file in image.context()}
    assert "infra/pools.py" in files and "pyproject.toml" in files
    assert not [file for file in files if "__pycache__" in file or file.endswith((".pyc", ".env"))]
    assert not [file for file in files if file.startswith(("tests/", "artifacts/", ".git", ".venv"))]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in an image's folder, with its code alone."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done
