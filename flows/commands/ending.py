"""How the end of a flow becomes the end of its command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flows.commands import terminal
from flows.commands.options import console, plain


def ended(flow: Callable[[], Any], verbose: bool, as_json: bool = False) -> Any:
    """Shows a flow while it runs. Where the Prefect server is gone, which then has not heard of its end, the command ends here.

    Args:
        flow: runs it.
        verbose: show Prefect's lines.
        as_json: keep the standard output free for JSON.

    Returns:
        The flow's final state.
    """
    from tasks.runtime import server_away

    try:
        with terminal.shown(verbose, as_json):
            return flow()
    except Exception as error:  # of Prefect's engine: those of the flow are in its state
        if not server_away.is_away(error):
            raise
        said = plain(server_away.explained(error))
        console.print(f"[bold red]failed:[/] {said}", highlight=False, soft_wrap=True)
        server_away.leave()


def exit_code(state: Any) -> int:
    """The exit code for the state of a run that has failed."""
    from tasks.runtime import end_states

    return 2 if end_states.is_mistake(state) else 1
