"""Each outcome of a run is provoked in the composed services, and told of by the webhook. After test_composed.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.containers.composed import PROJECT, Stack, docker, step, until
from tests.containers.nights import NIGHT, SMOKE, schedule, scheduled, settings, unscheduled

pytestmark = [pytest.mark.slow, pytest.mark.containers, pytest.mark.timeout(3600)]
WORSE = "/home/sif/.cache/worse"  # a folder that the workers have, and that is no artifact
# Writes a merged policy with noise in its last layer: it loses some of what it could, and not all.
SPOIL = """
import pathlib, shutil, sys
import torch
from safetensors.torch import load_file, save_file

whole, worse, scale = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), float(sys.argv[3])
shutil.rmtree(worse, ignore_errors=True)
worse.mkdir()
for file in whole.iterdir():
    if file.is_file() and file.name != "manifest.json":
        shutil.copyfile(file, worse / file.name)
weights = load_file(worse / "model.safetensors")
torch.manual_seed(0)
name = max((name for name in weights if name.endswith("down_proj.weight")), key=lambda name: [int(part) for part in name.split(".") if part.isdigit()])
weights[name] += scale * weights[name].std() * torch.randn(weights[name].shape)
save_file(weights, worse / "model.safetensors", {"format": "pt"})
print(name)
"""
NOISE = 2.0  # of the standard deviation of those weights


def seconds(alert: dict[str, Any], run: dict[str, Any]) -> str:
    """How long after a run's end its alert came."""
    return f"{alert['at'] - datetime.fromisoformat(run['end_time']).timestamp():.1f} s after its end: {alert['text']}"


@contextmanager
def damaged(stack: Stack) -> Iterator[str]:
    """The latest evaluation, with a byte too many for as long as the block runs; its name."""
    find = "cd artifacts && ls -td evaluate/*/predictions.parquet | head -1"
    file = stack.inside("worker-cpu", "sh", "-c", find).strip()
    stack.inside("worker-cpu", "sh", "-c", f"printf x >> artifacts/{file}")
    try:
        yield file.rpartition("/")[0]
    finally:
        stack.inside("worker-cpu", "truncate", "--size=-1", f"artifacts/{file}")


def night(stack: Stack, **parameters: Any) -> dict[str, Any]:
    """A night that somebody starts, at its end."""
    return stack.ended(stack.start("nightly", **parameters), 900)


def comparison(stack: Stack, run: str) -> dict[str, Any]:
    """The only comparison of a night."""
    [target] = stack.read(f"nights/{run}/outcome.json")["targets"].values()
    [made] = target["comparisons"]
    return dict(made)


def test_a_failed_comparison_is_told_of_and_the_next_good_one(stack: Stack) -> None:
    with step("a comparison of a damaged evaluation, and of the whole one") as found:
        with damaged(stack) as name:
            failed = stack.ended(stack.start("compare", names=[name, name]), 300)
        assert failed["state_name"] == "Failed", failed["state"]
        found(seconds(stack.told(failed["id"], "Failed"), failed))
        well = stack.ended(stack.start("compare", names=[name, name]), 300)
        assert well["state_name"] == "Completed", well["state"]
        found(seconds(stack.told(well["id"], "Recovered"), well))


def test_a_killed_worker_a_night_that_nobody_takes_and_one_that_finds_nothing_are_told_of(
    stack: Stack,
) -> None:
    """The scheduled night is made a minute before its start: no alert waits for an event that Prefect never sends."""
    container = f"{PROJECT}-worker-cpu-1"
    with step("the worker of pool cpu is killed in the middle of a run") as found:
        run = stack.start("reproduce", config="smoke", set=settings(*SMOKE, "scenes.seed=1"))
        until(lambda: stack.run(run)["state_type"] == "RUNNING", "it runs", 300)
        docker("kill", "--signal", "KILL", container)
        now = datetime.now(UTC)
        made = schedule(
            stack, 86400, now + timedelta(seconds=70), set=settings(NIGHT, "nightly.level=0.0000001")
        )
        crashed = stack.ended(run, 180)
        assert crashed["state_name"] == "Crashed"
        found(seconds(stack.told(run, "Crashed"), crashed))
    with step("a scheduled night that nobody takes, until the worker is back") as found:
        [late] = until(
            lambda: [r for r in scheduled(stack, now, ["SCHEDULED"]) if r["state_name"] == "Late"],
            "it is late",
            300,
        )
        alert = stack.told(late["id"], "Late")
        found(
            f"{alert['at'] - datetime.fromisoformat(late['expected_start_time']).timestamp():.0f} s after it was due: {alert['text']}"
        )
        docker("start", container)
        ended = stack.ended(late["id"], 900)
        unscheduled(stack, made)
        assert ended["state_name"] == "Inconclusive", ended["state"]
        found(seconds(stack.told(late["id"], "Inconclusive"), ended))


def test_a_night_that_fell_and_the_next_good_one_are_told_of(stack: Stack) -> None:
    find = "ls -td artifacts/merge/*/config.json | head -1 | xargs dirname"
    model = stack.inside("worker-cpu", "sh", "-c", find).strip()
    stack.inside("worker-cpu", "python", "-c", SPOIL, model, WORSE, str(NOISE))
    history = json.loads(
        stack.inside("worker-cpu", "sh", "-c", "cat $(ls -t artifacts/nights/*/outcome.json | tail -1)")
    )
    [good] = history["targets"].values()
    benchmark = min(good["comparisons"], key=lambda one: one["least"])["benchmark"]
    with step("a night with a spoiled policy") as found:
        fell = night(stack, set=NIGHT, models=[WORSE], benchmarks=[benchmark])
        assert fell["state_name"] == "Regressed", fell["state"]
        found(seconds(stack.told(fell["id"], "Regressed"), fell))
    with step("the same fall at a level at which it is not significant, though one could be") as found:
        seen = comparison(stack, fell["id"])
        level = (seen["reachable"] * seen["adjusted"]) ** 0.5
        assert seen["reachable"] < level < seen["adjusted"], f"the spoiled policy has lost everything: {seen}"
        warned = night(
            stack, set=settings(NIGHT, f"nightly.level={level}"), models=[WORSE], benchmarks=[benchmark]
        )
        assert warned["state_name"] == "Warned", warned["state"]
        found(seconds(stack.told(warned["id"], "Warned"), warned))
    with step("the policy that was there before") as found:
        well = night(stack, set=NIGHT)
        assert well["state_name"] == "Completed", well["state"]
        found(seconds(stack.told(well["id"], "Recovered"), well))


def test_a_night_that_could_not_be_made_is_told_of(stack: Stack) -> None:
    with step("a night without a checkpoint, a minute after somebody scheduled it") as found:
        now = datetime.now(UTC)
        made = schedule(stack, 86400, now + timedelta(seconds=60), models=["no-such-checkpoint"])
        [run] = until(lambda: scheduled(stack, now), "the scheduled night has ended", 600)
        unscheduled(stack, made)
        assert run["state_name"] == "NotRun", run["state"]["message"]
        found(seconds(stack.told(run["id"], "NotRun"), run))
    told = [(alert["deployment"], alert["outcome"].partition(":")[0]) for alert in stack.alerts("")]
    print(f"alerts: {told}")
    assert {outcome for _, outcome in told} >= {
        *(
            "UserError",
            "Failed",
            "Crashed",
            "Regressed",
            "Warned",
            "Inconclusive",
            "NotRun",
            "Late",
            "Recovered",
        )
    }
