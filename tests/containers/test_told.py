"""Each outcome of a run is provoked in the composed services, and told of by the webhook. After test_composed.py."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.containers.composed import PROJECT, Stack, docker, step, until
from tests.containers.nights import NIGHT, SMOKE, schedule, scheduled, settings, unscheduled

pytestmark = [pytest.mark.slow, pytest.mark.containers, pytest.mark.timeout(3600)]
# A folder that the worker has, and that is no artifact. Nights of other tries, in services that were kept, have another.
POLICY = f"/home/sif/.cache/policy-{secrets.token_hex(4)}"
NIGHTLY: dict[str, Any] = {"set": NIGHT, "models": [POLICY], "benchmarks": ["vstar"]}
# Writes the miniature, with noise in its last layer.
WRITE = """
import pathlib, re, shutil, sys
import torch
from safetensors.torch import load_file, save_file
from sifthinker.models import miniature

whole = pathlib.Path(miniature.__file__).parent / "policy"
folder, noise = pathlib.Path(sys.argv[1]), float(sys.argv[2])
shutil.rmtree(folder, ignore_errors=True)
shutil.copytree(whole, folder)
weights = load_file(folder / "model.safetensors")
last = max((name for name in weights if name.endswith("mlp.down_proj.weight") and "visual" not in name), key=lambda name: int(re.search(r"[.](\\d+)[.]", name)[1]))
torch.manual_seed(0)
drawn = weights[last].float()
weights[last] = (drawn + noise * drawn.std() * torch.randn(drawn.shape)).to(weights[last].dtype)
save_file(weights, folder / "model.safetensors", {"format": "pt"})
print(last)
"""
# Of the standard deviation of those weights. The miniature has 17 of the 48 questions right: with the first noise it
# loses one and says much that cannot be read, and with the second it loses all.
NOISE = {"Warned": 6.4, "Regressed": 100.0}


def seconds(alert: dict[str, Any], run: dict[str, Any]) -> str:
    """How long after a run's end its alert came."""
    return f"{alert['at'] - datetime.fromisoformat(run['end_time']).timestamp():.1f} s after its end: {alert['text']}"


@contextmanager
def broken(stack: Stack) -> Iterator[None]:
    """A folder of the store where a file is expected, for as long as the block runs: an error that nobody expects."""
    folder = "artifacts/alive/broken.json"
    stack.inside("worker-cpu", "mkdir", "-p", folder)
    try:
        yield
    finally:
        stack.inside("worker-cpu", "rmdir", folder)


def night(stack: Stack, **parameters: Any) -> dict[str, Any]:
    """A night that somebody starts, at its end."""
    return stack.ended(stack.start("nightly", **parameters), 1800)


def test_a_night_that_fell_and_the_next_good_one_are_told_of(stack: Stack) -> None:
    with step("a night with the miniature") as found:
        stack.inside("worker-cpu", "python", "-c", WRITE, POLICY, "0")
        well = night(stack, **NIGHTLY)
        assert well["state_name"] == "Completed", well["state"]
        found(str(well["state"]["message"]))
    for outcome, noise in NOISE.items():
        with step(f"a night with {noise} of noise in it") as found:
            stack.inside("worker-cpu", "python", "-c", WRITE, POLICY, str(noise))
            fell = night(stack, **NIGHTLY)
            assert fell["state_name"] == outcome, fell["state"]
            found(seconds(stack.told(fell["id"], outcome), fell))
    with step("the policy that was there before") as found:
        stack.inside("worker-cpu", "python", "-c", WRITE, POLICY, "0")
        well = night(stack, **NIGHTLY)
        assert well["state_name"] == "Completed", well["state"]
        found(seconds(stack.told(well["id"], "Recovered"), well))


def test_a_run_that_fails_and_the_next_good_one_are_told_of(stack: Stack) -> None:
    with step("a pruning of a store with a broken file, and of the whole store") as found:
        with broken(stack):
            failed = stack.ended(stack.start("prune"), 900)
        assert failed["state_name"] == "Failed", failed["state"]
        found(seconds(stack.told(failed["id"], "Failed"), failed))
        well = stack.ended(stack.start("prune"), 900)
        assert well["state_name"] == "Completed", well["state"]
        found(seconds(stack.told(well["id"], "Recovered"), well))


def test_a_killed_worker_a_night_that_nobody_takes_and_one_that_finds_nothing_are_told_of(
    stack: Stack,
) -> None:
    """The scheduled night is made a minute before its start: no alert waits for an event that Prefect never sends."""
    container = f"{PROJECT}-worker-cpu-1"
    with step("the worker of pool cpu is killed in the middle of a run") as found:
        run = stack.start("reproduce", config="smoke", set=settings(*SMOKE, "scenes.seed=1"))
        until(lambda: stack.run(run)["state_type"] == "RUNNING", "it runs", 900)
        docker("kill", "--signal", "KILL", container)
        now = datetime.now(UTC)
        sure = {"set": settings(NIGHT, "nightly.level=1e-16")}  # surer than 48 questions can make anybody
        made = schedule(stack, 86400, now + timedelta(seconds=70), **NIGHTLY | sure)
        crashed = stack.ended(run, 300)
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
        ended = stack.ended(late["id"], 1800)
        unscheduled(stack, made)
        assert ended["state_name"] == "Inconclusive", ended["state"]
        found(seconds(stack.told(late["id"], "Inconclusive"), ended))


def test_a_night_that_could_not_be_made_is_told_of(stack: Stack) -> None:
    with step("a night without a checkpoint, a minute after somebody scheduled it") as found:
        now = datetime.now(UTC)
        made = schedule(stack, 86400, now + timedelta(seconds=60), models=["no-such-checkpoint"])
        [run] = until(lambda: scheduled(stack, now), "the scheduled night has ended", 1200)
        unscheduled(stack, made)
        assert run["state_name"] == "NotRun", run["state"]["message"]
        found(seconds(stack.told(run["id"], "NotRun"), run))
    told = [(alert["deployment"], alert["outcome"].partition(":")[0]) for alert in stack.alerts("")]
    print(f"alerts: {told}")
    assert {outcome for _, outcome in told} >= {
        *(
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
