"""A model of this machine as annotator or judge: which folder, and what its replies are remembered under."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.commands import requests
from sifthinker import llm
from sifthinker.config import LOCAL, Api, Config
from sifthinker.core.errors import UserError
from sifthinker.llm import local_models
from sifthinker.models import serving, vllm_command
from sifthinker.upkeep import endpoint_checks
from tasks.runtime import endpoint
from tasks.runtime.endpoint import PICTURES, weights
from tests import evil


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(3 * 2**20))
    return folder


def local(model: Path, **more: object) -> Api:
    return Api.model_validate({"base_url": LOCAL, "model": str(model), **more})


def test_other_weights_in_the_folder_are_another_model(model: Path) -> None:
    first = local_models.scope(local(model))
    assert first == local_models.scope(local(model))
    (model / "README.md").write_text("no part of it")
    assert first == local_models.scope(local(model))
    changed = bytearray(3 * 2**20)
    changed[-1] = 1
    (model / "model.safetensors").write_bytes(changed)
    second = local_models.scope(local(model))
    assert second != first
    (model / "config.json").write_text('{"a": 1}')
    assert local_models.scope(local(model)) not in (first, second)
    assert weights(local(model)) == {"local weights": local_models.scope(local(model))}
    assert weights(Api()) == weights(None) == {}


def test_replies_of_other_weights_or_of_another_template_or_server_are_not_taken_from_the_ledger(
    model: Path, tmp_path: Path
) -> None:
    asked = llm.Request([{"role": "user", "content": "hi"}], 0.5, 99)
    with evil.serving(lambda *_: (200, {}, evil.chat())) as server:

        def ask(**fields: object) -> int:
            before = len(server.asked)
            with llm.Client(local(model, **fields), tmp_path / "calls.db", server.url) as client:
                client.ask(asked)
            return len(server.asked) - before

        assert (ask(), ask()) == (1, 0)
        (model / "model.safetensors").write_bytes(b"other")
        assert (ask(), ask()) == (1, 0)
        assert (ask(local_server="transformers"), ask(), ask(local_server="transformers")) == (1, 0, 0)
        (model / "chat_template.jinja").write_text("{{ messages }}")
        assert (ask(), ask()) == (1, 0)


def test_what_is_no_folder_of_a_model_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder of a model .*hf download"):
        local_models.scope(local(tmp_path))
    with (
        pytest.raises(UserError, match="no folder of a model"),
        llm.Client(Api(base_url=LOCAL), tmp_path / "l"),
    ):
        pass


def test_the_plan_and_the_doctor_say_what_will_answer(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = {"base_url": LOCAL, "model": str(model), "local_server": "transformers"}
    config = Config.model_validate({"scenes": {}, "annotate": {"api": api}, "grpo": {"judge": api}})
    said = "\n".join(requests.lines(config, {"annotate", "grpo"}))
    assert f"grpo.judge: transformers serves the folder {model} while the stage runs" in said
    found = list(endpoint_checks.endpoints(config, calls=True))
    assert [finding.verdict for finding in found] == ["ok"]
    assert "served by transformers while the stage runs" in found[0].found
    monkeypatch.setenv("PATH", "")
    vllm = Config.model_validate({"scenes": {}, "grpo": {"judge": {**api, "local_server": "vllm"}}})
    assert "vLLM is not installed" in str(list(endpoint_checks.endpoints(vllm, calls=True)))


def test_vllm_is_told_how_many_pictures_a_prompt_of_the_annotator_has(model: Path) -> None:
    (model / "config.json").write_text('{"dtype": "float32"}')
    options = vllm_command.Options(images=PICTURES)
    assert '{"image": 16, "video": 0}' in vllm_command.command(model, 8000, "m", options)
    assert '{"image": 2, "video": 0}' in vllm_command.command(model, 8000, "m")
    assert serving.Wanted(model, "vllm", model / "log").images == 2


def test_a_local_model_is_served_on_the_gpus_that_are_named(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that GRPO's judge may have GPUs that no rank has."""
    asked: list[serving.Wanted] = []

    @contextmanager
    def several(wanted: list[serving.Wanted]) -> Iterator[tuple[str, ...]]:
        asked.extend(wanted)
        yield ("http://127.0.0.1:9/v1",)

    monkeypatch.setattr(serving, "several", several)
    judge = local(model, local_server="vllm", local_gpus="6,7")
    with endpoint._local(judge, tmp_path / "log", "grpo", logging.getLogger("test")) as url:
        assert url == "http://127.0.0.1:9/v1"
    (one,) = asked
    assert (one.folder, one.server, one.gpus, one.name) == (model, "vllm", "6,7", str(model))
