"""infra/compose.yaml, built and run with Docker to its end: `make test-containers`. The tests are one story, in order.

The GPU pools have workers of the training image, with torch for processors and without vLLM. README.md has the variables.
What was done is printed, with its seconds.
"""

from __future__ import annotations

import re
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from infra import alert_triggers, lost_runs
from tests.containers.composed import (
    FINAL,
    IMAGES,
    POOLS,
    PROJECT,
    ROOT,
    Stack,
    docker,
    inside,
    step,
    until,
)
from tests.containers.nights import NIGHT, SMOKE, schedule, scheduled, settings, unscheduled
from tests.infra import image

pytestmark = [pytest.mark.slow, pytest.mark.containers, pytest.mark.timeout(3600)]
LONG = ("sft.max_steps=60", "sft.save_steps=5")  # enough to be stopped in
CLOSED = 120  # seconds within which a run whose worker is gone is closed


def test_the_images_are_built_and_a_comment_rebuilds_no_dependency(stack: Stack) -> None:
    with step("images are built") as found:
        for service in ("server", "worker-cpu", "worker-gpu-8"):
            began = time.monotonic()
            stack.compose("build", service)
            found(f"{service} in {time.monotonic() - began:.0f} s")
    for name in IMAGES:
        torch = inside(stack, name)
        assert len(torch) == (name != "server"), torch


def steps(said: str) -> dict[str, bool]:
    """The steps of a build (`--progress plain`), and whether each came from the cache."""
    found = dict(re.findall(r"^(#\d+) (\[.*\] (?:FROM|RUN|COPY|WORKDIR) .*)$", said, re.MULTILINE))
    return {name: f"{number} CACHED" in said.splitlines() for number, name in found.items()}


def test_a_comment_rebuilds_no_layer_of_dependencies(stack: Stack) -> None:
    """In what is installed from: the layers of torch and of all other packages come from the cache."""
    context = stack.folder / "context"
    shutil.rmtree(context, ignore_errors=True)
    for file in [
        *image.context(),
        Path(".dockerignore"),
        *(p.relative_to(ROOT) for p in ROOT.glob("docker/*.Dockerfile")),
    ]:
        (context / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, context / file)
    targets = {"server": "worker", "worker": "worker", "train": "train"}  # by image, the Dockerfile
    for name, dockerfile in targets.items():
        options = [f"--build-arg={key}={value}" for key, value in stack.arguments(name).items() if value]
        options += [] if name == "train" else ["--target", name]
        for changed in ("pyproject.toml", "constraints.txt"):
            with (context / changed).open("a", encoding="utf-8") as file:
                file.write(f"# a comment for {name}, {time.time()}\n")
        began = time.monotonic()
        said = docker(
            *(
                "build",
                "--progress",
                "plain",
                "--network",
                "host",
                "-f",
                str(context / f"docker/{dockerfile}.Dockerfile"),
            ),
            *(*options, str(context)),
        )
        made = steps(said)
        installs = {
            step: cached for step, cached in made.items() if "pip install" in step and "--no-deps" not in step
        }
        assert len(installs) == {"server": 2, "worker": 3, "train": 3}[name], made
        assert all(installs.values()), (
            f"built again: {[step for step, cached in installs.items() if not cached]}"
        )
        assert not made[next(step for step in made if "names.py" in step and "RUN" in step)], (
            "the comment is seen"
        )
        print(
            f"{name} after a comment: {time.monotonic() - began:.0f} s, {sum(made.values())} of {len(made)} steps cached"
        )


def test_the_stack_comes_up_with_pools_deployments_and_automations(stack: Stack) -> None:
    with step("the stack is up") as found:
        stack.compose("up", "--detach", "--no-build")
        until(lambda: all(stack.online(pool) for pool in POOLS), "a worker of each pool is online", 900)
        refused = httpx.post(f"{stack.origin}/api/flows/filter", json={}, timeout=60)
        assert refused.status_code in (401, 403), refused.status_code
        limits = {pool["name"]: pool["concurrency_limit"] for pool in stack.ask("work_pools/filter", {})}
        assert limits == {"cpu": None, "gpu-1": 1, "gpu-8": 1}
        count = "select count(*) from deployment"
        rows = stack.inside("postgres", "psql", "-U", "prefect", "-tAc", count)
        deployments = stack.ask("deployments/filter", {})
        assert int(rows) == len(deployments) >= 10, "the server's database is PostgreSQL"
        automations = stack.ask("automations/filter", {})
        assert {one["name"] for one in automations} == registered()
        found(f"{len(deployments)} deployments, {len(automations)} automations, limits {limits}")
    form = stack.deployment("nightly")["parameter_openapi_schema"]["properties"]
    assert "pattern" in form["set"], "the form is the flow's, which could be imported where it was registered"
    said = stack.inside("worker-cpu", "sif", "doctor", "--config", "smoke", "--no-calls", check=False)
    print(said)
    assert "no worker" not in said


def registered() -> set[str]:
    """The names of the automations that `make deploy` registers where runs are processes."""
    told = {alert.name for alert in alert_triggers.alerts([], [])}
    return told | {automation.name for automation in lost_runs.automations([], ["a process"], [])}


def test_a_reproduction_runs_in_the_pools_to_its_end(stack: Stack) -> None:
    with step("a mistake, told of") as found:
        wrong = stack.start("reproduce", config="no-such-configuration")
        assert stack.ended(wrong, 600)["state_name"] == "UserError"
        [alert] = until(lambda: stack.alerts(wrong), "its alert", 60)
        assert alert["outcome"] == "UserError" and alert["url"] == f"{stack.origin}/runs/flow-run/{wrong}"
        found(alert["text"])
    with step("a reproduction in pools") as found:
        run = stack.start("reproduce", config="smoke", set=settings(*SMOKE))
        ended = stack.ended(run, 2400)
        assert ended["state_name"] == "Completed", ended["state"]["message"]
        stages = stack.stages(run)
        assert {one["state_name"] for one in stages} == {"Completed"}
        placed = {(one["name"].split()[-1], one["work_pool_name"]) for one in stages}
        assert {("sft", "gpu-8"), ("grpo", "gpu-8"), ("evaluate", "gpu-1"), ("depth", "gpu-1")} <= placed, (
            placed
        )
        found(f"{ended['state']['message']}; {len(stages)} of them in pools")
    [alert] = until(lambda: stack.alerts(run), "it is well again", 60)
    assert alert["outcome"] == "Recovered"
    linked(stack, run)
    looked_at(stack)


def linked(stack: Stack, run: str) -> None:
    """Its links lead to the UI and to the pages, by the addresses that browsers use."""
    artifacts = stack.ask("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}, "limit": 200})
    text = "\n".join(str(artifact["data"]) for artifact in artifacts)
    assert f"{stack.origin}/runs/flow-run/" in text and "http://server:4200" not in text
    pages = f"http://127.0.0.1:{stack.pages}/"
    links = {part.split(")")[0] for part in text.split("](")[1:] if part.startswith(pages)}
    assert links
    for link in links:
        assert httpx.get(link, timeout=60, follow_redirects=True).status_code == 200, link
    print(f"{len(links)} links to pages, e.g. {sorted(links)[0]}")


def looked_at(stack: Stack) -> None:
    """Logs and metrics, in the containers that have the store."""
    log = stack.inside("worker-cpu", "sif", "logs", "sft")
    assert "sft" in log and len(log.splitlines()) > 5
    exported = httpx.get(f"http://127.0.0.1:{stack.metrics}/metrics", timeout=60).text
    names = {line.split("{")[0].split()[0] for line in exported.splitlines() if line.startswith("sif_")}
    assert {"sif_score", "sif_training_reward", "sif_stage_rows"} <= names, names
    readable = [line for line in exported.splitlines() if line.startswith("sif_part_readable")]
    assert len(readable) == 4 and all(line.endswith(" 1.0") for line in readable), readable
    assert "sif_server_up 1.0" in exported.splitlines()
    print(f"sif logs sft: {len(log.splitlines())} lines; {len(names)} metrics: {', '.join(sorted(names))}")


def test_a_night_that_the_schedule_starts_completes(stack: Stack) -> None:
    with step("a scheduled night") as found:
        stack.inside("worker-cpu", "sif", "promote", "latest", "--as", "baseline", "--why", "the first one")
        now = datetime.now(UTC)
        made = schedule(stack, 60, now, set=NIGHT, fresh=True)
        until(lambda: scheduled(stack, now, ["RUNNING", *FINAL]), "a night has begun", 400)
        unscheduled(stack, made)  # with the runs that it has made ahead
        [run, *_] = until(lambda: scheduled(stack, now), "a scheduled night has ended", 1200)
        assert run["state_name"] == "Completed", run["state"]["message"]
        assert run["created_by"]["type"] == "SCHEDULE" and run["work_queue_name"] == "night"
        found(f"{run['state_name']}: {run['state']['message']}")
    assert not stack.alerts(run["id"])


def step_of(stack: Stack) -> tuple[str, int]:
    """The work folder of the training that is under way, and its step."""
    find = "ls -td artifacts/sft/*.work | head -1"
    folder = stack.inside("worker-cpu", "sh", "-c", find, check=False).strip()
    status = stack.read(f"{folder.removeprefix('artifacts/')}/status.json") or {}
    return folder, int(status.get("step") or 0)


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_a_training_whose_container_ends_goes_on_where_it_was(stack: Stack, how: str) -> None:
    with step(f"the training's container is {how} in the middle of SFT, and started again") as found:
        rate = {"stopped": 0.0007, "killed": 0.0008}[how]  # a training of its own
        lines = settings(*SMOKE, *LONG, f"sft.learning_rate={rate}")
        parent = stack.start("reproduce", config="smoke", set=lines, stop_after="sft")
        [training] = until(
            lambda: [s for s in stack.stages(parent, ["gpu-8"]) if s["state_type"] == "RUNNING"],
            "SFT is placed",
            900,
        )
        until(lambda: step_of(stack)[1] >= 7, "SFT makes steps", 900)
        work, steps = step_of(stack)
        began = time.monotonic()
        if how == "stopped":
            stack.compose("stop", "worker-gpu-8")
            found(f"docker compose stop at step {steps}: {time.monotonic() - began:.0f} s")
        else:
            docker("kill", "--signal", "KILL", f"{PROJECT}-worker-gpu-8-1")
        closed = stack.ended(training["id"], CLOSED)
        seconds = time.monotonic() - began
        assert closed["state_type"] == "CRASHED" and seconds < CLOSED
        found(f"{closed['state_name']} after {seconds:.0f} s: {closed['state']['message']}")
        again = until(
            lambda: [s for s in stack.stages(parent, ["gpu-8"]) if s["id"] != training["id"]],
            "the parent notices",
            180,
        )
        found(f"the parent's next run of it after {time.monotonic() - began:.0f} s")
        if how == "stopped":
            stack.compose("start", "worker-gpu-8")
        else:  # `restart: unless-stopped` leaves a container that was killed by hand as it is
            docker("start", f"{PROJECT}-worker-gpu-8-1")
        until(
            lambda: stack.run(again[0]["id"])["state_type"] in ("RUNNING", "COMPLETED"),
            "it has the slot",
            300,
        )
        found(f"it runs after {time.monotonic() - began:.0f} s")
        ended = stack.ended(parent, 1200)
        assert ended["state_name"] == "Completed", ended["state"]["message"]
        summary = stack.read(f"{work.removeprefix('artifacts/').removesuffix('.work')}/summary.json") or {}
        resumed = str(summary["notes"]["resumed_from"])
        found(f"resumed from {resumed}")
        assert int(resumed.removeprefix("checkpoint-")) >= 5
