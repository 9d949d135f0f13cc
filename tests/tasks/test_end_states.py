"""Which failed state an error becomes, and what others make of that state."""

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Completed, Crashed, Failed

from flows.commands.ending import exit_code
from sifthinker.core.errors import UserError
from tasks.runtime import end_states
from tasks.runtime.server_away import ServerAway
from tasks.runtime.stage import StageFailed, StageRefused

MISTAKE = end_states.failed(UserError("data.json, row 3: no box"))
FAILURE = end_states.failed(StageFailed("sft: rank 0 failed"))


@pytest.mark.parametrize(
    ("error", "name", "code"),
    [
        (UserError("no such file"), "UserError", 2),
        (StageRefused("sft: rank 1: no such colour"), "UserError", 2),  # as a stage's task tells it the flow
        (StageFailed("sft: rank 0 failed"), "Failed", 1),
        (ServerAway("it does not answer"), "Failed", 1),
    ],
)
def test_a_mistake_has_a_state_and_an_exit_code_of_its_own(error: Exception, name: str, code: int) -> None:
    state = end_states.failed(error)
    assert (state.is_failed(), state.name, state.message) == (True, name, str(error))
    assert exit_code(state) == code


@pytest.mark.parametrize("state", [Completed(name="UserError"), Cancelled(), Crashed(), Failed()])
def test_no_other_state_is_taken_for_a_mistake(state: State[None]) -> None:
    assert not end_states.is_mistake(state) and exit_code(state) == 1


def test_the_flow_hears_of_a_mistake_in_a_task_and_in_another_pool() -> None:
    told = end_states.error(MISTAKE, "ingest")
    assert isinstance(told, StageRefused) and str(told) == "ingest: data.json, row 3: no box"
    assert type(end_states.error(FAILURE, "sft")) is StageFailed
    assert str(end_states.error(FAILURE, "sft")) == "sft: rank 0 failed", "the stage is named once"
    assert end_states.is_mistake(end_states.passed_on(MISTAKE, "its run in pool gpu-8 failed: no box"))
    assert not end_states.is_mistake(end_states.passed_on(FAILURE, "its run in pool gpu-8 failed"))


def test_several_runs_failed_by_a_mistake_only_if_each_did() -> None:
    both = end_states.together({"a.0": MISTAKE, "b.0": FAILURE})
    assert not end_states.is_mistake(both)
    assert both.message == "a.0: data.json, row 3: no box; b.0: sft: rank 0 failed"
    assert end_states.is_mistake(end_states.together({"a.0": MISTAKE}, "no row could be made: "))
