"""How the end of a flow becomes the end of its command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flows.commands.options import console, plain


def ended(flow: Callable[[], Any]) -> Any:
    """The final state of a flow. Where the Prefect server is gone, which then has not heard of it, the command ends here."""
    from tasks.runtime import server_away

    try:
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
