"""What a run refreshes, over its attempts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect import flow_engine as engine
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.states import AwaitingRetry, Pending

from sifthinker.config import Config
from sifthinker.core.errors import UserError
from tasks.runtime.flow_run import run_flow
from tasks.runtime.pipeline import Partial, Run
from tasks.runtime.stage import Job, stage
from tasks.runtime.stage_results import Results

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_a_retry_does_not_refresh_again_what_its_first_attempt_has(tmp_path: Path) -> None:
    """A training that a refresh has made is not made twice because the stage after it failed."""
    made: list[str] = []
    broken = [True]

    @stage(config=lambda c: {"seed": 0}, results=Results(("spill",)))
    def first_model(job: Job) -> None:
        made.append("sft")
        (job.out / "weights").write_text("w")

    @stage(config=lambda c: {}, results=Results(("spill",)))
    def second(job: Job) -> None:
        made.append("grpo")
        if broken[0]:
            raise UserError("no room")
        (job.out / "weights").write_text("w")

    def pipeline(run: Run) -> None:
        run(second, "grpo", model=run(first_model, "sft"))

    sources = [{"name": "a", "format": "viscot", "path": "a.json"}]
    config = Config.model_validate({"store": tmp_path / "store", "name": "test", "sources": sources})

    @flow
    def whole() -> State[dict[str, str]]:
        return run_flow(pipeline, config, Partial(refresh=("sft",)))

    failed: State[Any] = whole(return_state=True)
    assert failed.is_failed() and made == ["sft", "grpo"]
    made.clear()
    broken[0] = False
    with get_client(sync_client=True) as client:
        identifier = failed.state_details.flow_run_id
        assert identifier
        for proposed in (AwaitingRetry(), Pending()):
            client.set_flow_run_state(identifier, proposed)
        again = engine.run_flow(whole, client.read_flow_run(identifier), return_type="state")
    assert again.is_completed(), again.message
    assert made == ["grpo"]
    made.clear()
    assert whole(return_state=True).is_completed() and made[0] == "sft", "a new run refreshes again"
