"""The identity of a stage: what is in it, and the reasons that are given for a new one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sifthinker.config import Config, identity
from sifthinker.core.errors import UserError
from sifthinker.system import commands
from sifthinker.training import samplers
from tasks.runtime import closure, results
from tasks.runtime import identity as identities
from tasks.runtime.stage_results import RESULTS, Results
from tasks.stages import evaluate

CONFIG = Config.model_validate({"scenes": {}})


def test_every_difference_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed = {"trl": "1.16.2", "torch": "2.13.0+cpu", "peft": "0.19.0"}
    monkeypatch.setattr(identities, "installed", lambda name: installed.get(name, commands.ABSENT))
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(closure, "code", lambda names: dict.fromkeys(names, "1"))
    (tmp_path / "zero3.json").write_text('{"stage": 3}')
    means = Results(
        ("rewards/grounding", "chain"), ("trl", "torch"), (("DeepSpeed zero3.json", "zero3.json"),)
    )
    old = identities.identity(
        "s", means, {"grpo": {"learning_rate": 1e-5, "lora": {"r": 8}}}, {"data": "1"}, {"sources.path": "1"}
    )
    installed["trl"] = "1.17.0"
    (tmp_path / "zero3.json").write_text('{"stage": 2}')
    monkeypatch.setattr(closure, "code", lambda names: {name: name[0] for name in names if name != "chain"})
    new = identities.identity(
        "s",
        Results(means.modules, (*means.libraries, "deepspeed"), means.data),
        {"grpo": {"learning_rate": 3e-5, "lora": {"r": 8}, "generation": "transformers"}},
        {"data": "2", "more": "1"},
        {"sources.path": "2"},
    )
    assert identities.differences(old, new) == [
        "input data changed",
        "input more is new",
        "file sources.path changed",
        "config grpo.generation is new: transformers",
        "config grpo.learning_rate: 1e-05 -> 3e-05",
        "deepspeed not in the key -> not installed",
        "trl 1.16 -> 1.17",
        "DeepSpeed zero3.json changed",
        "chain is gone",
        "rewards/grounding changed",
    ]
    assert identities.key(old) != identities.key(new)


def test_an_identity_holds_no_path_and_no_patch_version(tmp_path: Path) -> None:
    of = identities.identity("grpo", RESULTS["grpo"].of(CONFIG), {}, {}, {})
    text = json.dumps(of)
    assert str(results.ROOT) not in text and "sifthinker." not in text and ".py" not in text
    assert all(version.count(".") == 1 for version in of["libraries"].values() if version != commands.ABSENT)
    assert of["data"].keys() == {"DeepSpeed zero3.json"}


def test_a_data_file_that_is_not_there_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    with pytest.raises(UserError, match=r"zero3\.json: cannot be read: No such file"):
        identities.identity("s", Results((), (), (("DeepSpeed zero3.json", "infra/zero3.json"),)), {}, {}, {})


def test_paths_limits_and_names_of_keys_are_no_part_of_an_identity() -> None:
    assert set(identity(CONFIG.annotate.api)) == {"base_url", "model", "mode", "batch_chat_path"}
    assert "concurrency" not in identity(CONFIG.evaluate)


def test_what_samples_and_what_serves_are_part_of_an_identity() -> None:
    assert identity(samplers.resolved(CONFIG).grpo)["generation"] in ("transformers", "vllm_lora")
    assert "vllm" not in identity(CONFIG.grpo)
    assert "vllm_server" not in identity(CONFIG.grpo)
    assert identity(CONFIG.evaluate)["server"] == "vllm"


def test_replies_of_another_server_or_library_are_not_taken_from_the_ledger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = {"transformers": "5.23.0", "torch": "2.13.0", "vllm": "0.31.1"}
    monkeypatch.setattr(identities, "installed", installed.__getitem__)
    ours, vllm, theirs = map(served, ("transformers", "vllm", "http://127.0.0.1:8000/v1"))
    assert len({ours, vllm, theirs}) == 3
    installed["transformers"] = "5.23.4"
    assert served("transformers") == ours
    installed["transformers"] = "5.24.0"
    assert served("transformers") != ours and served("vllm") == vllm


def served(server: str, **fields: object) -> str:
    evaluation = {"server": server, **fields}
    return evaluate._served(Config.model_validate({"scenes": {}, "evaluate": evaluation}))


def test_replies_of_the_vllm_of_an_environment_are_not_those_of_another_one(tmp_path: Path) -> None:
    said = {}
    for version in ("0.30.1", "0.31.0", "0.31.1"):
        python = tmp_path / version / "python3"
        python.parent.mkdir()
        python.write_text(f"#!/bin/sh\necho {version}\n")
        python.chmod(0o755)
        said[version] = served("vllm", python=str(python))
    assert said["0.30.1"] != said["0.31.0"] == said["0.31.1"]


def test_the_version_of_a_server_in_an_environment_of_its_own_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python3"
    python.write_text('#!/bin/sh\ntest "$3" = vllm && echo 0.31.2 || echo\n')
    command = tmp_path / "vllm"
    command.write_text(f"#!{python}\nimport vllm\n")
    for file in (python, command):
        file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    vllm = Results(libraries=("vllm",))
    identities.installed.cache_clear()
    assert identities.versions(vllm) == "vllm 0.31"
    command.write_text("#!/bin/sh\nexec vllm\n")
    identities.installed.cache_clear()
    assert identities.versions(vllm) == f"vllm {commands.UNKNOWN}"
    command.unlink()
    identities.installed.cache_clear()
    assert identities.versions(vllm) == f"vllm {commands.ABSENT}"


def test_libraries_are_those_of_the_environment_that_a_stage_names(tmp_path: Path) -> None:
    python = tmp_path / "python3"
    python.write_text(
        "#!/bin/sh\nshift 2\nfor name in $@; do test $name = trl && echo 1.17.0 || echo 9.9.1; done\n"
    )
    python.chmod(0o755)
    named = {"python": str(python), "generation": "vllm_lora", "vllm": {"python": str(python)}}
    usual, elsewhere = (
        identities.identity("grpo", RESULTS["grpo"].of(config), {}, {}, {})["libraries"]
        for config in (CONFIG, Config.model_validate({"scenes": {}, "grpo": named}))
    )
    assert elsewhere["trl"] == "1.17" and usual["trl"] != "1.17"
    assert {elsewhere[name] for name in ("torch", "transformers", "deepspeed", "vllm")} == {"9.9"}
    gone = Config.model_validate({"scenes": {}, "grpo": {"python": str(tmp_path / "gone")}})
    assert (
        identities.identity("grpo", RESULTS["grpo"].of(gone), {}, {}, {})["libraries"]["trl"]
        == "of unknown version"
    )


def test_a_benchmark_that_is_there_twice_has_the_digests_of_both_files(tmp_path: Path) -> None:
    folders = [tmp_path / language for language in ("en", "cn", "lost")]
    for folder in folders[:2]:
        folder.mkdir()
    entries = [{"name": "mmbench", "path": folder, "images": folder} for folder in folders]
    config = Config.model_validate({"scenes": {}, "evaluate": {"benchmarks": entries}})
    assert evaluate._files(config) == {
        "mmbench.path": folders[0],
        "mmbench.images": folders[0],
        "mmbench#2.path": folders[1],
        "mmbench#2.images": folders[1],
    }
