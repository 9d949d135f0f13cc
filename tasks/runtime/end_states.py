"""The failed states of tasks and runs. One that a mistake of the user's ended has a name of its own, in the UI as well.

The name passes from a shard to its stage, from a run in another pool to the task that waits for it, and from a task to
its flow. Alerts (infra/alert_triggers.py) and exit codes of `sif` go by it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from prefect.client.schemas.objects import State
from prefect.exceptions import FailedRun
from prefect.states import Failed

from sifthinker.core.errors import UserError
from tasks.runtime.stage import StageFailed, StageRefused

MISTAKE = "UserError"
LOST = "PoolCrashed"


class _Told(logging.Filter):
    """Leaves out that a worker's run tells its failed final state once more, with a traceback through Prefect's engine."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.exc_info[0] if record.exc_info else None
        again = record.getMessage().startswith("Engine execution exited")
        return not (again and kind is not None and issubclass(kind, FailedRun))


_TOLD = _Told()


def tell_once() -> None:
    """From now on a failed final state is in the log of a run once. Errors that are no final state keep their traceback."""
    logging.getLogger("prefect.flow_runs").addFilter(_TOLD)  # the same filter is added once


def failed(error: Exception) -> State[Any]:
    """The state of an error that says what to do."""
    return _failed(str(error), isinstance(error, (UserError, StageRefused)))


def lost(message: str) -> State[Any]:
    """The state of what waited for a run whose worker or machine went down. The stage is tried again."""
    return Failed(name=LOST, message=message)


def is_lost(state: State[Any]) -> bool:
    """Whether a run was lost that another try may bring to its end."""
    return state.is_failed() and state.name == LOST


def passed_on(state: State[Any], message: str) -> State[Any]:
    """The failed state of what waited for another run or task, whose state is given."""
    return _failed(message, is_mistake(state))


def together(states: Mapping[str, State[Any]], begin: str = "") -> State[Any]:
    """The failed state of what consists of several runs.

    Args:
        states: of those that failed, by name.
        begin: of the message.
    """
    message = begin + "; ".join(f"{name}: {state.message}" for name, state in states.items())
    return _failed(message, bool(states) and all(is_mistake(state) for state in states.values()))


def error(state: State[Any], label: str) -> StageFailed:
    """The error for the flow, of the failed state of a stage's task. It names the stage once."""
    kind = StageRefused if is_mistake(state) else StageFailed
    said = str(state.message)
    return kind(said if said.startswith(f"{label}: ") else f"{label}: {said}")


def is_mistake(state: State[Any]) -> bool:
    """Whether a mistake of the user's ended what has this state."""
    return state.is_failed() and state.name == MISTAKE


def _failed(message: str, mistake: bool) -> State[Any]:
    return Failed(name=MISTAKE, message=message) if mistake else Failed(message=message)
