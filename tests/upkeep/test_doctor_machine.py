"""`sif doctor` holds the machine to what a run needs: Python, packages, GPUs, vLLM, and room on the disk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sifthinker.system import commands
from sifthinker.upkeep import machine_checks
from tests.upkeep.test_doctor import config, only, verdicts


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nrequires-python = ">=3.11,<3.13"\ndependencies = ["numpy==2.0.0"]\n'
        '[project.optional-dependencies]\ntrain = ["torch>=2.1"]\n'
    )
    (tmp_path / "constraints.txt").write_text("# pins\nnumpy==2.0.0\ntorch==2.1.0\nzope.event==1.0\n")
    (tmp_path / "constraints-py312.txt").write_text("numpy==2.0.0\ntorch==2.2.0\n")
    return tmp_path


@pytest.mark.parametrize(
    ("version", "verdict"),
    [((3, 10, 9), "error"), ((3, 11, 0), "ok"), ((3, 12, 5), "ok"), ((3, 13, 0), "error")],
)
def test_python_is_held_to_what_the_project_requires(
    project: Path, version: tuple[int, ...], verdict: str
) -> None:
    assert only(machine_checks.python(version, project)).verdict == verdict


@pytest.mark.parametrize(
    ("installed", "verdict", "says"),
    [
        ({"numpy": "2.0.0", "torch": "2.1.0+cpu", "zope-event": "1.0"}, "ok", "3 packages"),
        ({"numpy": "2.0.0", "torch": "2.2.0"}, "ok", "constraints-py312.txt"),  # the other set fits
        ({"numpy": "2.0.1", "torch": "2.1.0"}, "warning", "numpy 2.0.1 (pinned: 2.0.0)"),
        ({"numpy": "2.0.0"}, "warning", "torch"),  # no stage that runs a model
        ({"torch": "2.1.0"}, "error", "numpy"),
    ],
)
def test_packages_are_held_to_the_dependencies_and_the_pins(
    project: Path, installed: dict[str, str], verdict: str, says: str
) -> None:
    first = next(iter(machine_checks.packages(project, installed)))
    assert first.verdict == verdict
    assert says in first.found


def test_this_environment_has_what_all_stages_need() -> None:
    assert "error" not in verdicts(list(machine_checks.packages())).values()


def cuda(cards: int, free: float, bf16: bool = True) -> SimpleNamespace:
    card = SimpleNamespace(name="H100", total_memory=80e9)
    return SimpleNamespace(
        __version__="2.1.0",
        version=SimpleNamespace(cuda="13.0"),
        cuda=SimpleNamespace(
            is_available=lambda: cards > 0,
            device_count=lambda: cards,
            get_device_properties=lambda number: card,
            mem_get_info=lambda number: (free, 80e9),
            is_bf16_supported=lambda: bf16,
        ),
    )


@pytest.mark.parametrize(
    ("torch", "fields", "verdict"),
    [
        (cuda(0, 0), {}, "ok"),  # tiny models need none
        (cuda(0, 0), {"model": {"weights": "miniature"}}, "ok"),
        (cuda(0, 0), {"model": {"weights": "miniature-looks"}}, "ok"),
        (cuda(0, 0), {"model": {}}, "warning"),
        (cuda(0, 0), {"model": {}, "placement": "pools"}, "ok"),  # stages go to where they are
        (cuda(8, 79e9), {"model": {}}, "ok"),
        (cuda(1, 79e9), {"model": {}}, "warning"),  # 8 ranks
        (cuda(8, 20e9), {"model": {}}, "warning"),  # something else is running there
        (cuda(8, 79e9, bf16=False), {"model": {}}, "warning"),
    ],
)
def test_gpus_are_held_to_what_the_configuration_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: Any, fields: dict[str, Any], verdict: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", torch)
    monkeypatch.setattr(machine_checks, "_installed", lambda: {"torch": "2.1.0"})
    assert only(machine_checks.gpu(config(tmp_path, **fields))).verdict == verdict


@pytest.mark.parametrize(
    ("cards", "grpo", "todo"),
    [
        (8, {"generation": "vllm_lora"}, ""),  # a server beside each rank, on its GPU
        (8, {"generation": "vllm_lora", "vllm": {"count": 2}}, "10 GPUs, 2 of them for grpo.vllm.count"),
        (10, {"generation": "vllm_lora", "vllm": {"count": 2}}, ""),
        (8, {"generation": "transformers", "vllm": {"count": 2}}, ""),  # starts none of them
        (4, {"generation": "transformers"}, "8 GPUs: lower sft.ranks, grpo.ranks"),
    ],
)
def test_the_servers_that_sample_for_grpo_want_gpus_beside_the_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cards: int, grpo: dict[str, Any], todo: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", cuda(cards, 79e9))
    monkeypatch.setattr(machine_checks, "_installed", lambda: {"torch": "2.1.0"})
    found = only(machine_checks.gpu(config(tmp_path, model={}, grpo=grpo)))
    assert found.verdict == ("warning" if todo else "ok")
    assert todo in found.todo


@pytest.mark.parametrize(
    ("server", "script", "verdict", "says"),
    [
        ("vllm", None, "error", "not installed"),
        ("vllm", "echo 0.31.0", "ok", "/vllm"),
        (
            "vllm",
            "echo 'RuntimeError: operator torchvision::nms does not exist' >&2; exit 1",
            "error",
            "status 1: RuntimeError: operator torchvision::nms does not exist",
        ),
        ("vllm", "kill -ILL $$", "error", "status -4: without a message"),  # built for another processor
        ("transformers", None, "ok", "not wanted here"),
    ],
)
def test_vllm_is_missed_where_it_is_wanted_and_a_broken_one_is_told_from_one_that_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: str,
    script: str | None,
    verdict: str,
    says: str,
) -> None:
    if script is not None:
        (tmp_path / "vllm").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "vllm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = only(machine_checks.vllm(config(tmp_path, evaluate={"server": server})))
    assert found.verdict == verdict and says in found.found


def test_a_vllm_that_does_not_end_is_a_broken_one(tmp_path: Path) -> None:
    command = tmp_path / "vllm"
    command.write_text("#!/bin/sh\nexec sleep 60\n")
    command.chmod(0o755)
    assert "did not end within" in commands.trouble(str(command), timeout=0.1)


@pytest.mark.parametrize(("free", "verdict"), [(1e6, "error"), (1e9, "warning"), (500e9, "ok")])
def test_room_is_held_to_the_size_of_the_models(tmp_path: Path, free: float, verdict: str) -> None:
    found = list(machine_checks.disk(config(tmp_path), lambda path: (int(1e12), 0, int(free))))
    assert verdicts(found) == {"disk: store": verdict, "disk: temporary": verdict}
    assert all(finding.todo for finding in found if finding.verdict != "ok")
