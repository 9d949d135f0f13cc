"""The real flow with tiny models: a real Prefect server, a real HTTP endpoint, real training processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    FlowRunFilter,
    FlowRunFilterId,
)

from flows.labels import Label
from sifthinker.store.artifacts import Store
from sifthinker.store.runs import runs

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
SIF = str(Path(sys.executable).with_name("sif"))
# Smaller than the smoke configuration where that takes time and shows nothing more.
SMALL = [
    "scenes.rows=16",
    "scenes.benchmark_rows=4",
    "sft.max_steps=2",
    "grpo.max_steps=2",
    "evaluate.max_tokens=32",
]
DATA = [
    "scenes",
    "depth-weights",
    "policy-weights",
    "ingest",
    "expand",
    "depth",
    "annotate",
    "publish",
    "subset",
]
# No passes over the dead letters, and no model before the last one is evaluated: no such stages.
LABELS = [label for label in get_args(Label) if label not in ("retry", "evaluate-base", "evaluate-sft")]


def sif(store: Path, command: str, *arguments: str, settings: list[str] | None = None) -> str:
    """Runs a `sif` command on the smoke configuration and returns what it printed."""
    done = subprocess.run(
        line(store, command, arguments, settings), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def line(
    store: Path, command: str, arguments: tuple[str, ...] = (), settings: list[str] | None = None
) -> list[str]:
    fields = [f"store={store}", *SMALL, *(settings or [])]
    return [SIF, command, "--config", "smoke", *(x for field in fields for x in ("--set", field)), *arguments]


def states(store: Path) -> dict[str, str]:
    """The state of each task run of the store's latest flow run, from the server."""
    run = runs(Store(store))[0]
    with get_client(sync_client=True) as client:
        of_flow = FlowRunFilter(id=FlowRunFilterId(any_=[run["id"]]))
        return {task.name: str(task.state_name) for task in client.read_task_runs(flow_run_filter=of_flow)}


def manifests(store: Path) -> dict[str, dict[str, Any]]:
    """The manifests of the latest run by label."""
    refs = runs(Store(store))[0]["stages"]
    paths = {label: store / ref["stage"] / ref["key"] / "manifest.json" for label, ref in refs.items()}
    return {label: json.loads(path.read_text()) for label, path in paths.items()}


@pytest.fixture(scope="module")
def store(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of one whole reproduction."""
    path = tmp_path_factory.mktemp("reproduction")
    print(sif(path, "run"))
    return path


def test_every_stage_ran_and_lost_no_row(store: Path) -> None:
    assert list(manifests(store)) == LABELS
    for label, manifest in manifests(store).items():
        rows = manifest["rows"]
        assert rows["in"] == rows["kept"] + sum(rows["rejected"].values()), label
    assert manifests(store)["publish"]["rows"]["kept"] > 0


def test_the_data_set_opens_with_pictures(store: Path, tmp_path: Path) -> None:
    import datasets

    [folder] = [path.parent for path in (store / "publish").glob("*/README.md")]
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path))
    assert loaded.num_rows == manifests(store)["publish"]["rows"]["kept"]
    assert (
        loaded[0]["image"].size == loaded[0]["depth_image"].size == (loaded[0]["width"], loaded[0]["height"])
    )


def test_the_report_names_the_stand_ins_and_the_random_models(store: Path) -> None:
    [report] = store.glob("report/*/report.html")
    text = report.read_text()
    assert "stand-in" in text
    assert "random" in text
    assert "<script" not in text


def test_the_lineage_of_the_model_is_shown_by_the_server_and_in_the_report(store: Path) -> None:
    run = runs(Store(store))[-1]
    with get_client(sync_client=True) as client:
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run["id"]]))
        shown = {artifact.key: artifact.data for artifact in client.read_artifacts(artifact_filter=of_run)}
    assert "data:image/png;base64," in shown["lineage"]
    for label in ("policy-weights", "ingest", "sft", "grpo", "merge-grpo"):
        assert f"**{label}**" in shown["lineage"]
    [report] = store.glob("report/*/report.html")
    assert "What the final model was made from" in report.read_text()


def test_an_unchanged_rerun_runs_nothing(store: Path) -> None:
    plan = sif(store, "plan")
    assert "runs" not in plan.split()
    sif(store, "run")
    assert set(states(store).values()) == {"Cached"}


@pytest.mark.parametrize(
    ("setting", "runs_from", "reason"),
    [
        ("grpo.learning_rate=2e-5", "grpo", "config grpo.learning_rate: 1e-05 -> 2e-05"),
        ("expand.seed=5", "expand", "config expand.seed: 0 -> 5"),
        ("evaluate.limit=1", "evaluate", "config evaluate.limit: None -> 1"),
    ],
)
def test_the_plan_foretells_a_change_with_its_reason(
    store: Path, setting: str, runs_from: str, reason: str
) -> None:
    plan = sif(store, "plan", settings=[setting])
    stages = plan.partition("What it will take")[0].splitlines()
    verdicts = {words[0]: words[1] for words in map(str.split, stages) if len(words) > 1}
    labels = LABELS
    assert reason in plan
    assert verdicts[runs_from] == "runs"
    upstream = labels[: labels.index(runs_from)]
    assert {verdicts[label] for label in upstream} == {"cached"}


def test_a_changed_grpo_rate_runs_grpo_and_what_follows(store: Path) -> None:
    sif(store, "run", settings=["grpo.learning_rate=2e-5"])
    labels = LABELS
    ran = {name for name, state in states(store).items() if state == "Completed"}
    assert ran == set(labels[labels.index("grpo") :])
    # The two runs side by side: what differs is the one field, and the page and the UI have it.
    changed, first = (run["id"] for run in (runs(Store(store))[0], runs(Store(store))[-1]))
    said = sif_compare(store, first, changed)
    assert "- grpo: configuration grpo.learning_rate: 1e-05 -> 2e-05" in said
    assert said.count(": configuration ") == 1 and "| vstar |" in said
    page = Path(said.split("page ")[1].split()[0])
    assert "grpo.learning_rate" in page.read_text()
    with get_client(sync_client=True) as client:
        key = ArtifactFilter(key=ArtifactFilterKey(any_=["comparison"]))
        found = client.read_artifacts(artifact_filter=key)
    assert [
        artifact for artifact in found if "grpo.learning_rate" in str(artifact.data)
    ]  # others are of other tests


def sif_compare(store: Path, *names: str) -> str:
    command = [SIF, "compare", *names, "--store", str(store)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--start-at", "nonsense"], "--start-at: there is no stage nonsense; stages: scenes, "),
        (
            ["--set", "grpo.learning_rat=1"],
            "grpo.learning_rat: there is no such field; did you mean 'learning_rate'?",
        ),
        (["--start-at", "grpo", "--set", "expand.seed=77"], "start_at: grpo cannot start"),
        (
            ["--start-at", "grpo", "--set", "scenes.seed=77"],
            "as configured:\n  scenes: config scenes.seed: 0 -> 77\n  and what is made from that: ingest, expand, ",
        ),
    ],
)
def test_a_mistake_is_explained_and_ends_with_2(store: Path, arguments: list[str], message: str) -> None:
    done = subprocess.run(line(store, "run", tuple(arguments)), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_run_killed_in_its_data_stages_ends_with_the_same_artifacts(store: Path, tmp_path: Path) -> None:
    needed = [label for label in DATA if label != "policy-weights"]  # no policy for a data set
    expected = {label: manifests(store)[label]["digest"] for label in needed}
    pause, kills = random.Random(0), 0
    environment = {**os.environ, "PREFECT_LOGGING_LEVEL": "WARNING"}
    for stage in ("scenes", "ingest", "depth", "annotate"):  # killed a moment after the line of each
        command = line(tmp_path / "killed", "run", ("--stop-after", "subset"))
        process = subprocess.Popen(
            command, start_new_session=True, env=environment, stderr=subprocess.PIPE, text=True
        )
        with process:
            assert process.stderr is not None
            for said in process.stderr:
                if said.startswith(stage):
                    time.sleep(pause.uniform(0, 0.2))
                    break
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
    assert kills, "every run ended before its kill"
    sif(tmp_path / "killed", "run", "--stop-after", "subset")
    assert {
        label: manifest["digest"] for label, manifest in manifests(tmp_path / "killed").items()
    } == expected


def test_the_export_is_what_the_release_reads(store: Path, tmp_path: Path) -> None:
    subprocess.run([SIF, "export", str(tmp_path / "release"), "--store", str(store)], check=True, timeout=120)
    rows = json.loads((tmp_path / "release" / "SIF-50K.json").read_text())
    assert Counter(len(row["images"]) for row in rows) == {2: manifests(store)["publish"]["rows"]["kept"]}
