"""`sif data --get` against a server that plays the hub: whole, resumed, refused, and never more than was asked for."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.commands import data
from flows.commands.main import app
from sifthinker.config import Config, parse
from sifthinker.core.errors import UserError
from sifthinker.models import hub as weights_hub
from sifthinker.upkeep.inputs import fetching
from sifthinker.upkeep.inputs.states import State
from sifthinker.upkeep.inputs.wanted import Input, inputs, named
from tests.upkeep.hub import COMMIT, Hub, playing

pytest.importorskip("huggingface_hub")
ROOT = Path(__file__).resolve().parents[2]
QUESTION = {
    "image": "direct_attributes/a.jpg",
    "text": "What?\n(A) red\n(B) green",
    "category": "direct_attributes",
}
VSTAR = "datasets/craigwu/vstar_bench"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # as the other tests have it
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.chdir(tmp_path)
    with playing() as found:
        yield found


@pytest.fixture
def vstar(hub: Hub) -> Hub:
    row = json.dumps({**QUESTION, "label": "A", "question_id": 0}).encode()
    hub.repositories[VSTAR] = {
        "test_questions.jsonl": row + b"\n",
        "direct_attributes/a.jpg": b"\xff\xd8\xff" + bytes(300_000),
        "OCR/unused.jpg": bytes(10),
        "README.md": b"# card",
    }
    return hub


def config(**fields: Any) -> Config:
    return parse({"scenes": {}, **fields}, "test")


def of(name: str, **fields: Any) -> Input:
    [item] = named(inputs(config(**fields)), [name])
    return item


def benchmark(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "evaluate": {
            "benchmarks": [{"name": name, "path": f"data/{name}", "images": f"data/{name}", **fields}]
        }
    }


def planned(item: Input, hub: Hub, part: int = 0, way: str = "") -> fetching.Fetch:
    assert item.publication
    chosen = next((one for one in item.publication.ways if one.name == way), item.publication.default)
    return fetching.plan(item, chosen.of(item.split).parts[part], hub.url)


def test_what_is_wanted_comes_and_nothing_else(vstar: Hub, tmp_path: Path) -> None:
    item = of("vstar", **benchmark("vstar"))
    assert item.state.verdict == "missing"
    plan = planned(item, vstar)
    assert plan.commit == COMMIT and plan.left == plan.size
    fetching.check_room([plan])
    fetching.fetch(plan, endpoint=vstar.url)
    there = tmp_path / "data" / "vstar"
    assert {p.relative_to(there).as_posix() for p in there.rglob("*") if p.is_file()} == {
        "test_questions.jsonl",
        "direct_attributes/a.jpg",
    }
    assert of("vstar", **benchmark("vstar")).state.verdict == "there"
    again = planned(item, vstar)
    assert again.left == 0


def test_a_line_that_breaks_is_resumed_where_it_broke(vstar: Hub, tmp_path: Path) -> None:
    vstar.cut["direct_attributes/a.jpg"] = 100_000
    fetching.fetch(planned(of("vstar", **benchmark("vstar")), vstar), endpoint=vstar.url)
    assert vstar.ranges("a.jpg") == ["", "bytes=100000-"]
    assert (tmp_path / "data/vstar/direct_attributes/a.jpg").stat().st_size == 300_003


def test_a_fetch_that_failed_goes_on_in_the_next_call(
    vstar: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call is ended in the middle of a file; what is not whole has no name yet."""
    plan = planned(of("vstar", **benchmark("vstar")), vstar)
    import huggingface_hub.file_download as library

    whole = library.http_get

    def half(url: str, temp_file: Any, **more: Any) -> None:
        if url.endswith("a.jpg"):
            temp_file.write(vstar.repositories[VSTAR]["direct_attributes/a.jpg"][:1000])
            raise ConnectionError("the line is down")
        whole(url, temp_file, **more)

    monkeypatch.setattr(library, "http_get", half)
    with pytest.raises(UserError, match=r"the line is down. What came is kept; call again"):
        fetching.fetch(plan, endpoint=vstar.url)
    assert not (tmp_path / "data/vstar/direct_attributes/a.jpg").exists()
    monkeypatch.setattr(library, "http_get", whole)
    fetching.fetch(planned(of("vstar", **benchmark("vstar")), vstar), endpoint=vstar.url)
    assert vstar.ranges("a.jpg") == ["bytes=1000-"]
    assert of("vstar", **benchmark("vstar")).state.verdict == "there"
    assert not list((tmp_path / "data/vstar").rglob(".fetching*"))


def test_a_gated_repository_says_where_to_ask(hub: Hub) -> None:
    name = "datasets/RussRobin/SpatialBench"
    hub.repositories[name] = {"size.json": b"[]"}
    hub.gated.add(name)
    plan = planned(of("spatialbench", **benchmark("spatialbench")), hub)
    with pytest.raises(UserError) as told:
        fetching.fetch(plan, endpoint=hub.url)
    said = str(told.value)
    assert (
        "asks for your name first" in said
        and "huggingface.co/datasets/RussRobin/SpatialBench" in said
        and "HF_TOKEN" in said
    )


def test_a_repository_that_is_not_there_is_named(hub: Hub) -> None:
    with pytest.raises(
        UserError, match=r"array/SAT: the hub has no such repository, or not for this user.*HF_TOKEN"
    ):
        planned(of("sat", **benchmark("sat")), hub)


def test_files_that_are_gone_from_a_repository_are_named(hub: Hub) -> None:
    hub.repositories["datasets/array/SAT"] = {"SAT_v9.parquet": b"x"}
    with pytest.raises(UserError, match=r"has none of SAT_static.parquet at revision 0f0f"):
        planned(of("sat", **benchmark("sat")), hub)


def test_a_hub_that_does_not_answer_is_no_traceback(hub: Hub) -> None:
    item = of("sat", **benchmark("sat"))
    assert item.publication
    with pytest.raises(UserError, match=r"array/SAT: could not be fetched"):
        fetching.plan(item, item.publication.default.parts[0], "http://127.0.0.1:9")


def test_a_disk_without_room_is_seen_before(vstar: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(of("vstar", **benchmark("vstar")), vstar)
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda place: usage)
    with pytest.raises(UserError, match=r"0 MB are free, and 0 MB are wanted; make room"):
        fetching.check_room([plan])
    assert not vstar.asked


def test_a_disk_that_fills_up_meanwhile_is_explained(vstar: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.file_download as library

    def full(url: str, temp_file: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "a.jpg")

    monkeypatch.setattr(library, "http_get", full)
    with pytest.raises(
        UserError, match=r"vstar_bench: a.jpg: the disk is full; make room.*What came is kept"
    ):
        fetching.fetch(planned(of("vstar", **benchmark("vstar")), vstar), endpoint=vstar.url)


def test_the_pieces_of_visual_cot_lie_beside_the_pictures(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["datasets/deepcs233/Visual-CoT"] = {
        "viscot_363k.json": b"[]",
        **{f"cot_images_tar_split/cot_images_{n:02}": bytes(10) for n in range(13)},
    }
    source = {"name": "mine", "format": "viscot", "path": "data/viscot_363k.json", "images": "data/cot"}
    item = of("mine", sources=[source])
    fetching.fetch(planned(item, hub, 0), endpoint=hub.url)
    fetching.fetch(planned(item, hub, 1), endpoint=hub.url)
    assert (tmp_path / "data/viscot_363k.json").read_bytes() == b"[]"
    assert len(list((tmp_path / "data/cot_images_tar_split").glob("cot_images_*"))) == 13
    again = of("mine", sources=[source])
    assert (
        "the 13 pieces of its archive are in data/cot_images_tar_split: join and unpack them"
        in again.state.found
    )
    (step,) = item.steps(item.ways()[0].parts[1])
    assert (
        step
        == "mkdir -p data/cot && cat data/cot_images_tar_split/cot_images_* | tar x --strip-components=1 -C data/cot"
    )
    (tmp_path / "data/cot_images_tar_split/cot_images_03").write_bytes(bytes(9))
    assert "cot_images_03 is shorter than the others" in of("mine", sources=[source]).state.found
    (tmp_path / "data/cot_images_tar_split/cot_images_07").unlink()
    assert "lacks the pieces 07 of 13" in of("mine", sources=[source]).state.found


def test_both_files_of_tallyqa_are_offered(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["datasets/zsxm1998/GRIT-TallyQA-Relabeled"] = {
        "tallyqa_val.jsonl": b'{"relabelled": 1}\n',
        "images/VG_100K/1.jpg": b"x",
    }
    hub.repositories["datasets/yfan1997/GRIT_data"] = {
        "tallyqa_val.jsonl": b'{"grit": 1}\n',
        "vsr_val.jsonl": b"{}",
    }
    item = of(
        "t", sources=[{"name": "t", "format": "tallyqa", "path": "d/tallyqa_val.jsonl", "images": "d/vg"}]
    )
    assert [way.name for way in item.ways()] == ["grit", "relabelled"]
    for part in (0, 1):
        fetching.fetch(planned(item, hub, part, "relabelled"), endpoint=hub.url)
    assert (tmp_path / "d/vg/VG_100K/1.jpg").read_bytes() == b"x"
    assert b"relabelled" in (tmp_path / "d/tallyqa_val.jsonl").read_bytes()
    fetching.fetch(planned(item, hub, 0, "grit"), endpoint=hub.url)
    assert b"grit" in (tmp_path / "d/tallyqa_val.jsonl").read_bytes()


@pytest.fixture
def cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub's client, which gets a model of two files and a pickle from the hub."""
    from huggingface_hub import constants

    cache = tmp_path / "cache"
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("huggingface_hub") and hasattr(module, "HF_HUB_CACHE"):
            monkeypatch.setattr(module, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    hub.repositories["me/model"] = {
        "config.json": b"{}",
        "model.safetensors": b"weights",
        "pytorch_model.bin": b"pickle",
    }
    return cache


def test_weights_go_into_the_cache_and_the_run_takes_them_from_there(
    hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    item = of("policy", model={"weights": "me/model"})
    assert item.state.verdict == "missing"
    place = fetching.fetch(planned(item, hub), endpoint=hub.url)
    assert place.is_relative_to(cache) and not (place / "pytorch_model.bin").exists()
    there = of("policy", model={"weights": "me/model"}).state
    assert there.verdict == "there" and str(cache) in there.found
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    out = tmp_path / "out"
    out.mkdir()
    assert weights_hub.download("me/model", None, out) == COMMIT
    assert (out / "model.safetensors").read_bytes() == b"weights" and not (
        out / "model.safetensors"
    ).is_symlink()
    (place / "model.safetensors").resolve().unlink()
    assert of("policy", model={"weights": "me/model"}).state.verdict == "missing"


def test_one_commit_is_one_artifact_whenever_and_however_it_was_fetched(
    hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the stages after it, all trainings among them, would be made again: the digest is in their keys."""
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    found = []
    for name in ("first", "again", "from-the-cache"):
        if name == "from-the-cache":
            fetching.fetch(planned(of("policy", model={"weights": "me/model"}), hub), endpoint=hub.url)
        out = tmp_path / name
        out.mkdir()
        assert weights_hub.download("me/model", None, out) == COMMIT
        found.append({str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*")})
        assert (weights_hub.cached("me/model", COMMIT) is not None) == (name == "from-the-cache")
    assert found == [{"config.json": b"{}", "model.safetensors": b"weights"}] * 3


def test_of_weights_that_are_half_in_the_cache_only_the_rest_is_to_be_fetched(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second file's line breaks for good; the first is whole, and needs no room again."""
    hub.repositories["me/model"]["config.json"] = b"{%s}" % (b" " * 100_000)
    hub.cut_for_good.add("model.safetensors")
    monkeypatch.setattr(fetching, "WORKERS", 1)
    item = of("policy", model={"weights": "me/model"})
    whole = planned(item, hub)
    assert whole.left == whole.room == whole.size == 100_002 + len(b"weights")
    with pytest.raises(UserError, match="What came is kept"):
        fetching.fetch(whole, endpoint=hub.url)
    rest = planned(item, hub)
    assert rest.left == rest.room == len(b"weights")
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda place: usage)
    fetching.check_room([rest])
    hub.cut_for_good.clear()
    fetching.fetch(rest, endpoint=hub.url)
    assert (
        planned(item, hub).left == 0 and of("policy", model={"weights": "me/model"}).state.verdict == "there"
    )


def test_the_beginning_of_a_file_that_is_here_needs_no_room_again(
    vstar: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(of("vstar", **benchmark("vstar")), vstar)
    (picture,) = (file for file in plan.files if file.name.endswith("a.jpg"))
    plan.aside(picture).parent.mkdir(parents=True)
    plan.aside(picture).write_bytes(bytes(300_000))
    assert plan.left == plan.size and plan.room == plan.size - 300_000
    usage = shutil.disk_usage("/")._replace(free=10_000)
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda place: usage)
    fetching.check_room([plan])
    plan.aside(picture).write_bytes(bytes(400_000))
    assert plan.room == plan.size, "what is too long is fetched anew"


def test_weights_that_are_there_are_not_fetched_again(
    hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = of("policy", model={"weights": "me/model"})
    fetching.fetch(planned(item, hub), endpoint=hub.url)
    (tmp_path / "c.yaml").write_text("scenes: {}\nmodel: {weights: me/model}\ndepth: {weights: tiny}\n")
    monkeypatch.setattr("flows.commands.data.ASKED_ABOVE", 0)  # whatever is fetched is asked about
    hub.asked.clear()
    ask = fetching.plan
    monkeypatch.setattr(fetching, "plan", lambda item, part: ask(item, part, hub.url))
    got = CliRunner().invoke(app, ["data", "--config", "c.yaml", "--get", "policy"], env={"COLUMNS": "300"})
    assert got.exit_code == 0, got.output
    assert "policy: there: in the hub's cache" in got.output and "to fetch" not in got.output
    assert not hub.asked


def test_of_data_that_is_there_the_archive_is_not_fetched_again_and_a_lost_picture_is(
    vstar: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is by a look at a few pictures, so that files are compared; an archive's pieces may have been removed."""
    ask = fetching.plan
    asked: list[tuple[str, str]] = []

    def plan(item: Input, part: Any) -> fetching.Fetch:
        asked.append((item.name, part.where))
        return ask(item, part, vstar.url)

    monkeypatch.setattr(fetching, "plan", plan)
    there = State("there", "here")
    viscot = replace(of("viscot", **benchmark("viscot")), state=there)
    assert viscot.publication and any(part.steps for part in viscot.publication.default.parts)
    plans, left = data._planned([viscot], "")
    assert (plans, left, asked) == ([], [], [])
    lost = replace(of("vstar", **benchmark("vstar")), state=there)
    plans, left = data._planned([lost], "")
    assert [name for name, _ in asked] == ["vstar"] and plans[0].left and not left


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_the_command_fetches_and_says_what_is_left(vstar: Hub, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "scenes: {}\nmodel: {weights: tiny}\ndepth: {weights: tiny}\nevaluate:\n  benchmarks:\n"
        "  - {name: vstar, path: data/vstar, images: data/vstar}\n"
        "  - {name: viscot, path: data/benchmark, images: data/cot}\n"
    )
    vstar.repositories["datasets/deepcs233/Visual-CoT"] = {
        f"cot_images_tar_split/cot_images_{n:02}": bytes(10) for n in range(13)
    }
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": vstar.url,
        "HF_HUB_OFFLINE": "0",
    }

    def sif(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows", "data", "--config", "c.yaml", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    before = json.loads(sif("--json").stdout)
    assert [(i["name"], i["state"]) for i in before if i["state"] != "not configured"] == [
        ("policy", "there"),
        ("depth", "there"),
        ("vstar", "missing"),
        ("viscot", "missing"),
    ]
    got = sif("--get")
    assert got.returncode == 1, got.stderr
    assert "git clone --depth 1 https://github.com/deepcs233/Visual-CoT" in got.stdout
    assert "cat data/cot_images_tar_split/cot_images_* | tar x" in got.stdout
    assert sif("vstar").returncode == 0
    assert sif("--get", "vstar").returncode == 0
    wrong = sif("--get", "vstr")
    assert wrong.returncode == 2 and "did you mean 'vstar'?" in wrong.stderr
