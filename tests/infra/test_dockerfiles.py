"""docker/: linted, pinned, without secrets, and in step with the code."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sifthinker.models import serving, vllm_command
from tests.infra.conftest import ROOT

FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
IDS = [file.name for file in FILES]


def instructions(file: Path) -> list[tuple[str, str]]:
    """(instruction, arguments), with continued lines joined and comments left out."""
    lines = [
        line for line in file.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")
    ]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [
        (line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()
    ]


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_hadolint_finds_nothing(file: Path) -> None:
    # Of this environment first: `make test` does not activate it.
    found = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
    if not found:
        pytest.skip("hadolint is not here; pip install -e '.[dev]'")
    ended = subprocess.run([found, "--no-color", str(file)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_an_image_is_pinned_and_runs_without_root(file: Path) -> None:
    found = instructions(file)
    stages = {match[1] for _, text in found if (match := re.search(r"AS (\w+)$", text))}
    bases = {
        f"${name}": image for word, text in found if word == "ARG" for name, _, image in [text.partition("=")]
    }
    for image in (text.split()[0] for word, text in found if word == "FROM"):
        image = bases.get(image, image)
        assert image in stages or re.search(r":\d+\.\d+\.\d+", image), f"{image} is not pinned"
    ends = "\n".join(word if word != "USER" else f"USER {text}" for word, text in found).split("FROM")[1:]
    for stage in ends:
        runs = re.search(r"CMD|ENTRYPOINT", stage)
        assert not runs or re.search(r"USER ([1-9]\d*)", stage), "what runs has no user"
    assert not [text for word, text in found if word == "ADD"]
    assert not re.search(
        r"latest", " ".join([*bases.values(), *(text for word, text in found if word == "FROM")])
    )
    assert any(word == "HEALTHCHECK" for word, _ in found)


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_an_image_holds_no_secret(file: Path) -> None:
    named = " ".join(text for word, text in instructions(file) if word in ("ENV", "ARG"))
    assert not re.search(r"PASSWORD|SECRET|TOKEN|API_KEY|AUTH", named)


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_torch_is_named_where_it_is_installed_and_is_the_projects(file: Path) -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    torch = next(pin for pin in pins if pin.startswith("torch=="))
    assert (
        f"pip install {torch}" in (text := file.read_text(encoding="utf-8"))
        or f" {torch} -c pins.txt" in text
    )
    assert torch in (ROOT / "docker/vllm.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_an_image_needs_no_frontend_of_a_registry_and_names_its_commit(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert "syntax=" not in text
    stages = text.split("\nFROM ")[1:]
    for stage in (stage for stage in stages if re.search(r"^(CMD|ENTRYPOINT)", stage, re.MULTILINE)):
        *before, label = stage.rstrip().splitlines()
        assert re.fullmatch(r"LABEL .*org.opencontainers.image.revision=\$COMMIT", label)
        assert "ARG COMMIT=unknown" in before[-3:], "last: a commit rebuilds no layer that takes time"


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_what_compiles_has_a_compiler_for_cpp(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert (" g++ " in text) == ("TORCHINDUCTOR_CACHE_DIR" in text)


def test_a_comment_changes_none_of_the_files_that_are_installed_from(tmp_path: Path) -> None:
    """The layers after the first stage depend on these files alone."""
    made = []
    for comment in ("", "\n# another comment\n"):
        folder = tmp_path / str(len(made))
        folder.mkdir()
        for name in ("pyproject.toml", "constraints.txt"):
            (folder / name).write_text((ROOT / name).read_text(encoding="utf-8") + comment, encoding="utf-8")
        subprocess.run([sys.executable, str(ROOT / "docker/names.py")], cwd=folder, check=True)
        made.append(
            {
                file.name: file.read_text()
                for file in sorted(folder.glob("*.txt"))
                if file.name != "constraints.txt"
            }
        )
    assert made[0] == made[1] and set(made[0]) == {"base.txt", "train.txt", "kubernetes.txt", "pins.txt"}
    assert "prefect==3.8.8\n" in made[0]["base.txt"] and "trl==1.16.0\n" in made[0]["train.txt"]
    assert "#" not in "".join(made[0].values()) and "torch==2.13.0\n" in made[0]["pins.txt"]


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_what_is_installed_comes_from_a_stage_that_a_comment_does_not_change(file: Path) -> None:
    for stage in file.read_text(encoding="utf-8").split("\nFROM ")[1:]:
        if "pip install" in stage:
            copied = [line for line in stage.splitlines() if line.startswith("COPY ") and line != "COPY . ."]
            assert not [line for line in copied if "pyproject.toml" in line or "constraints.txt" in line]


def test_a_training_image_has_one_torch() -> None:
    """vLLM's environment sees the other's, and the build fails if it got its own."""
    text = (ROOT / "docker/train.Dockerfile").read_text(encoding="utf-8")
    assert "venv --system-site-packages /opt/vllm" in text
    assert "test ! -e /opt/vllm/lib/python3.11/site-packages/torch" in text


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_sources_come_after_dependencies(file: Path) -> None:
    words = [f"{word} {text}" for word, text in instructions(file)]
    sources = [i for i, text in enumerate(words) if text == "COPY . ."]
    for i in sources:  # what a change of the sources builds again is quick
        end = next((j for j in range(i, len(words)) if words[j].startswith("FROM")), len(words))
        assert not [text for text in words[i:end] if "pip install" in text and "--no-deps" not in text]


def test_only_listed_paths_reach_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    for rule in rules:
        if rule.startswith("!") and rule != "!README.md":  # the README is written last
            assert [*ROOT.glob(rule[1:])], f"{rule} is nowhere"


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_the_serve_image_serves_by_the_stages_own_command(target: str, tmp_path: Path) -> None:
    """Its entry point runs a copy of that one file, in an environment without this package."""
    words = instructions(ROOT / "docker/serve.Dockerfile")
    begin = words.index(("FROM", f"base AS {target}"))
    entry = json.loads(next(text for word, text in words[begin:] if word == "ENTRYPOINT"))
    source = next(text for word, text in words if word == "COPY" and entry[1] in text).split()[0]
    shutil.copy(ROOT / source, tmp_path)
    vllm = tmp_path / "vllm"
    vllm.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    vllm.chmod(0o755)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"dtype": "bfloat16"}')
    line = [sys.executable, "-I", *(str(model) if word == "/model" else word for word in entry[1:])]
    told = subprocess.run(
        line, cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True
    )
    options = vllm_command.Options(cpu=target == "cpu")
    expected = vllm_command.command(model, 8000, serving.MODEL_NAME, options, host="0.0.0.0")
    assert told.stdout.splitlines() == expected[1:], told.stderr
    assert expected[expected.index("--dtype") + 1] == "bfloat16"
