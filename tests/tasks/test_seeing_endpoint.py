"""Endpoints of annotate that the stage starts: what is started, what is said of it, and what is in the key."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from sifthinker.annotation.annotate import messages
from sifthinker.config import Config, Source, identity
from sifthinker.core.errors import UserError
from sifthinker.core.records import WHOLE, Region, Sample
from sifthinker.models import serving
from tasks.runtime import endpoint
from tasks.runtime.endpoint import SAID, answering, scene_files, weights
from tasks.runtime.stage_results import RESULTS

LOG = logging.getLogger(__name__)


def configured(sees: str) -> Config:
    api = {"base_url": "standin", "standin_sees": sees}
    return Config.model_validate({"scenes": {}, "annotate": {"api": api}})


def test_who_sees_is_in_the_key_and_blindness_is_not() -> None:
    plain = Config.model_validate({"scenes": {}, "annotate": {"api": {"base_url": "standin"}}})
    found = {sees: configured(sees) for sees in SAID}
    assert identity(found["nothing"].annotate) == identity(plain.annotate)
    assert "standin_sees" not in identity(plain.annotate)["api"]
    assert len({json.dumps(identity(config.annotate)) for config in found.values()}) == 3
    assert not weights(found["nothing"].annotate.api)
    assert weights(found["miniature"].annotate.api)["local weights"].startswith("sees miniature ")
    modules = {sees: RESULTS["annotate"].of(config).modules for sees, config in found.items()}
    assert not {"standin/seeing", "standin/eyes"} & set(modules["nothing"])
    assert "standin/seeing" in modules["scenes"] and "standin/eyes" not in modules["scenes"]
    assert {"standin/replies", "standin/seeing", "standin/eyes"} <= set(modules["miniature"])
    assert "torch" in RESULTS["annotate"].of(found["miniature"]).libraries


def test_a_stand_in_that_reads_scenes_wants_some(tmp_path: Path) -> None:
    api = configured("scenes").annotate.api
    with (
        pytest.raises(UserError, match=r"annotate: .* no source is of rendered scenes; set `scenes`"),
        answering(api, tmp_path, "annotate", LOG, ()),
    ):
        pass


def test_the_truth_of_the_runs_scenes_is_found_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    thing = {"size": "small", "color": "red", "shape": "cube", "box": [20, 20, 60, 40], "depth": 0.5}
    truth = {
        "settings": {"width": 200, "height": 100},
        "scenes": [{"stream": "train", "objects": [thing]}],
    }
    (tmp_path / "scenes.json").write_text(json.dumps(truth))
    sources = [Source(name=n, format="viscot", path=tmp_path / f"{n}.json") for n in ("a", "b")]
    config = configured("scenes").model_copy(update={"sources": tuple(sources)})
    assert scene_files(config) == [tmp_path / "scenes.json"]
    box = (0.1, 0.2, 0.3, 0.4)
    row = Sample("a/0", "a", "b", "train", "Where?", "left", "x.png", "0", 200, 100, (box,))
    talk = messages(row, ((Region(WHOLE, 0.5),), (Region(box, 0.5),)), ["data:image/jpeg;base64,AAAA"] * 2)
    with answering(config.annotate.api, tmp_path, "annotate", LOG, scene_files(config)) as url:
        client = openai.OpenAI(base_url=url, api_key="any", max_retries=0)
        text = client.chat.completions.create(model="any", messages=talk).choices[0].message.content
    assert "<text>small red cube: left.</text>" in text
    assert "in place of seeing, the truth about the scenes was looked up" in caplog.text


def test_a_local_server_that_loads_its_model_is_waited_for_in_so_many_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(endpoint, "EVERY", 0.01)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    api = Config.model_validate(
        {"scenes": {}, "annotate": {"api": {"base_url": "local", "model": str(model)}}}
    ).annotate.api
    said = f"annotate: {api.local_server} loads {model}; its log: {tmp_path / 'local.log'}"

    @contextmanager
    def several(wanted: list[serving.Wanted]) -> Iterator[tuple[str, ...]]:
        deadline = time.monotonic() + 20
        while said not in caplog.messages and time.monotonic() < deadline:
            time.sleep(0.01)
        assert said in caplog.messages, "before it answers"
        yield ("http://127.0.0.1:1/v1",)

    monkeypatch.setattr(endpoint.serving, "several", several)
    with answering(api, tmp_path, "annotate", LOG) as url:
        assert url == "http://127.0.0.1:1/v1"
        lines = len(caplog.messages)
        time.sleep(0.1)
        assert len(caplog.messages) == lines, "nothing is said once it answers"
    assert caplog.messages.count(said) == 1, "the same words are said once a minute"
