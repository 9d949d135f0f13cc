"""What the tests of the composed services ask of runs: small settings, and nights by a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tests.containers.composed import FINAL, Stack

# The smoke configuration, with the miniature in place of a random policy, asked as a base model is: six steps teach it no
# chains. So a night has something to lose, and can end as Completed.
ASKED = (
    "evaluate.think=false",
    "evaluate.box_frame=family",
    "evaluate.max_tokens=160",
    "evaluate.concurrency=16",
)
SCENES = ("scenes.rows=24", "scenes.benchmark_rows=48", "scenes.fewest=2", "scenes.most=5", "depth.size=168")
SMOKE = (*SCENES, *ASKED, "placement=pools", "model.weights=miniature")


def settings(*lines: str) -> str:
    """The field `set` of a form."""
    return "\n".join(lines)


NIGHT = settings(*SCENES, *ASKED)  # of the same benchmarks


def schedule(stack: Stack, seconds: float, begin: datetime, **parameters: Any) -> str:
    """Adds a schedule to the deployment nightly; its id."""
    made = stack.deployment("nightly")
    every = {"interval": seconds, "anchor_date": begin.isoformat()}
    body = [{"schedule": every, "active": True, "parameters": {**made["parameters"], **parameters}}]
    [added] = stack.ask(f"deployments/{made['id']}/schedules", body)
    return str(added["id"])


def unscheduled(stack: Stack, identifier: str) -> None:
    stack.ask(f"deployments/{stack.deployment('nightly')['id']}/schedules/{identifier}", method="DELETE")


def scheduled(stack: Stack, since: datetime, states: Sequence[str] = FINAL) -> list[dict[str, Any]]:
    """The nights that a schedule started since then, in one of these states, the first first."""
    found = stack.runs("nightly", state={"type": {"any_": list(states)}})
    mine = [run for run in found if datetime.fromisoformat(run["expected_start_time"]) >= since]
    return [run for run in mine[::-1] if run["auto_scheduled"]]
