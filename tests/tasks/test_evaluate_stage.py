"""The stage evaluate: when its server starts, what it serves, and whose replies they are."""

import json
import logging
import shutil
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from sifthinker import config
from sifthinker.core import images, tables
from sifthinker.core.errors import UserError
from sifthinker.data import depth_estimation
from sifthinker.models import loading, serving
from sifthinker.store.digests import Digests
from tasks.runtime import endpoint
from tasks.runtime.elsewhere import Elsewhere
from tasks.stages import evaluate
from tests.evaluation.test_evaluate import CHAIN, depth_pictures, vstar
from tests.evaluation.test_evaluate import serving as answering


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    loading.build_tiny("qwen2_5_vl", 0, folder)
    return folder


@pytest.fixture(autouse=True)
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No progress is shown, for which a Prefect server would be asked."""
    monkeypatch.setattr(endpoint, "EVERY", 1e6)


def job(tmp_path: Path, model: Path, **fields) -> SimpleNamespace:
    """What the stage uses of a job."""
    for name in ("out", "work"):
        (tmp_path / name).mkdir(exist_ok=True)
    settings = config.Evaluate(benchmarks=(vstar(tmp_path / "data"),), **fields)
    policy = config.Model(weights=str(model), max_pixels=1200)
    return SimpleNamespace(
        config=config.Config(name="mine", scenes=config.Scenes(), evaluate=settings, model=policy),
        inputs={
            "model": SimpleNamespace(path=model, weights="digest", manifest={"label": "merge-grpo"}),
            "weights": SimpleNamespace(path=tmp_path / "depth model"),
        },
        out=tmp_path / "out",
        work=tmp_path / "work",
        store=SimpleNamespace(root=tmp_path, digests=Digests(tmp_path / "digests.sqlite")),
        draft=SimpleNamespace(rows=None),
        order=SimpleNamespace(label="evaluate"),
        elsewhere=Elsewhere(),
        log=logging.getLogger("evaluate"),
        notes={},
    )


def test_the_depth_pictures_are_made_before_the_server_takes_the_gpu(tmp_path, model, monkeypatch):
    happened = []

    def pictures(images, weights, settings):
        happened.append("depth begins")
        yield from depth_pictures(images)
        happened.append("depth ends")

    @contextmanager
    def server(folder, *_, **__):
        happened.append("server starts")
        processor = loading.load_processor(folder)
        assert processor.image_processor.size["longest_edge"] == 1200, "the budget of the configuration"
        with answering(lambda *_: CHAIN.format(answer="A")) as (url, _):
            yield url

    monkeypatch.setattr(depth_estimation, "pictures", pictures)
    monkeypatch.setattr(serving, "serving", server)
    made = job(tmp_path, model, server="transformers")
    evaluate.evaluate.run(made)
    assert happened == ["depth begins", "depth ends", "server starts"]
    assert made.draft.rows == {"in": 6, "kept": 6, "rejected": {}}
    assert made.notes["calls"] == 6


def test_replies_under_another_budget_or_template_are_asked_for_and_equal_ones_are_remembered(
    tmp_path, model, monkeypatch
):
    """The pictures are sent whole, so the requests are the same: what differs is what the server makes of them."""
    monkeypatch.setattr(depth_estimation, "pictures", lambda images, *_: depth_pictures(images))
    turned = tmp_path / "turned"
    shutil.copytree(model, turned)
    template = turned / "chat_template.jinja"
    template.write_text(template.read_text() + "{# another #}")
    with answering(lambda *_: CHAIN.format(answer="A")) as (url, requests):
        monkeypatch.setattr(serving, "serving", lambda *_, **__: nullcontext(url))

        def asked(max_pixels: int, folder: Path = model) -> int:
            before = len(requests)
            made = job(tmp_path, folder, server="transformers")
            policy = made.config.model.model_copy(update={"max_pixels": max_pixels})
            made.config = made.config.model_copy(update={"model": policy})
            evaluate.evaluate.run(made)
            return len(requests) - before

        assert [asked(4000), asked(8000), asked(4000), asked(8000)] == [6, 6, 0, 0]
        assert [asked(4000, turned), asked(4000, turned)] == [6, 0]
    assert all(request["messages"] in [r["messages"] for r in requests[:6]] for request in requests)


def test_a_server_that_runs_is_sent_pictures_within_the_budget_and_its_scores_say_whose_they_are(
    tmp_path, model, monkeypatch
):
    monkeypatch.setattr(depth_estimation, "pictures", lambda images, *_: depth_pictures(images))
    monkeypatch.setattr(evaluate.running_server, "listed", lambda url: [{"id": "theirs"}])
    with answering(lambda *_: CHAIN.format(answer="A")) as (url, requests):
        made = job(tmp_path, model, server=url)
        made.config = made.config.model_copy(
            update={"model": made.config.model.model_copy(update={"max_pixels": 28 * 28})}
        )
        evaluate.evaluate.run(made)
        asked = len(requests)
        monkeypatch.setattr(
            evaluate.running_server, "listed", lambda url: [{"id": "theirs", "root": str(model)}]
        )
        evaluate.evaluate.run(made)
        assert len(requests) == 2 * asked, "replies of an unverified server stand for nobody else's"
    assert {request["model"] for request in requests} == {"theirs"}
    for part in requests[0]["messages"][0]["content"]:
        if part["type"] == "image_url":
            shown = images.rgb(images.from_data_url(part["image_url"]["url"]))
            assert shown.width * shown.height <= 28 * 28 * 2  # of the 40 x 30 pixels of the file
            assert not shown.width % 28 and not shown.height % 28
    assert '"verified": true' in (tmp_path / "out/scores.json").read_text()
    assert len(list(tables.read(tmp_path / "out/predictions.parquet", ["id"]))) == 6


def test_a_server_of_the_weights_with_another_template_is_marked_and_asked_again_once_it_is_mended(
    tmp_path, model, monkeypatch, caplog
):
    served = tmp_path / "served"
    shutil.copytree(model, served)
    template = served / "chat_template.jinja"
    ours = template.read_text()
    template.write_text("{{ 'Look!' }}" + ours)
    monkeypatch.setattr(depth_estimation, "pictures", lambda images, *_: depth_pictures(images))
    entry = {"id": "theirs", "root": str(served), "owned_by": "vllm"}
    monkeypatch.setattr(evaluate.running_server, "listed", lambda url: [entry])
    with answering(lambda *_: CHAIN.format(answer="A")) as (url, requests):

        def scored() -> tuple[dict, int]:
            made, before = job(tmp_path, model, server=url), len(requests)
            policy = made.config.model.model_copy(update={"max_pixels": 8000})
            made.config = made.config.model_copy(update={"model": policy})
            evaluate.evaluate.run(made)
            return json.loads((tmp_path / "out/scores.json").read_text()), len(requests) - before

        found, asked = scored()
        assert found["server"]["verified"] and found["server"]["otherwise"] == ["chat template"]
        assert found["model"].endswith(f"(theirs at {url}, with another chat template)") and asked == 6
        assert "another chat template: the model is not shown what it was trained on" in caplog.text
        caplog.clear()
        template.write_text(ours)
        for asks in (6, 0):  # the replies of before were to other prompts
            found, asked = scored()
            assert found["server"]["otherwise"] == [] and found["model"].endswith(f"(theirs at {url})")
            assert asked == asks and "another" not in caplog.text


def test_a_server_of_other_weights_is_refused_before_anything_is_asked(tmp_path, model, monkeypatch):
    loading.build_tiny("qwen2_5_vl", 1, tmp_path / "other")
    monkeypatch.setattr(depth_estimation, "pictures", lambda images, *_: depth_pictures(images))
    monkeypatch.setattr(
        evaluate.running_server, "listed", lambda url: [{"id": "policy", "root": str(tmp_path / "other")}]
    )
    with (
        answering(lambda *_: "A") as (url, requests),
        pytest.raises(UserError, match="has other weights than"),
    ):
        evaluate.evaluate.run(job(tmp_path, model, server=url))
    assert not requests
