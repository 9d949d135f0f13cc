"""What a person gives in a form of the UI: a configuration by name or pasted, single settings, and which part of it runs.

A form becomes a configuration once. It is kept with the run on the server, so that a retry, on whatever worker, takes the same
one although a file may have changed since. The run shows it as the artifact `configuration`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Final, Literal

import httpx
from prefect import get_client
from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectHTTPStatusError
from pydantic import Field

from flows import run_names
from flows.labels import Label
from sifthinker.config import Config, as_yaml, assignments, load_text, parse
from sifthinker.core.errors import UserError
from tasks.runtime.pipeline import Partial

KEPT = "configuration"  # of the run, on the server; and the artifact that shows it
# Words of a choice, as the drop-downs show them.
BEGINNING: Final = "the beginning"
END: Final = "the end"
First = Literal["the beginning", Label]
Last = Literal["the end", Label]
# The server checks these before it makes a run, and shows them to whoever it refuses. They are no `pattern` of pydantic's: what
# else is wrong, `configuration` explains. A setting that is named like a secret is refused: parameters can be read in the UI.
# The server's refusal quotes the pattern, which is why it begins with words.
_LINES = r"^(FIELD=VALUE, one a line|([\w.-]+ *=.*(\n|$)|\s)*)$"
_SECRET = r"([Ss]ecret|SECRET|[Pp]assword|PASSWORD|[Aa]uthorization|(api|API)_?(key|KEY)) *="
ConfigText = Annotated[str, Field(min_length=1)]
Settings = Annotated[str, Field(json_schema_extra={"pattern": _LINES, "not": {"pattern": _SECRET}})]


def configuration(config: str, given: str) -> Config:
    """The configuration of the run that is under way: what its form says, or what its first attempt made of it.

    Args:
        config: the name of a configuration of this machine, or YAML.
        given: lines `FIELD=VALUE` on top of it.

    Raises:
        UserError: a name, a field or a value is wrong.
    """
    context = FlowRunContext.get()
    assert context and context.flow_run
    run = context.flow_run.id
    with get_client(sync_client=True) as client:
        try:
            kept = client.read_flow_run_input(run, KEPT)
        except PrefectHTTPStatusError as error:
            if error.response.status_code != httpx.codes.NOT_FOUND:
                raise
        else:
            return parse(json.loads(kept), "the configuration of the run's first attempt")
        try:
            resolved = load_text(config, assignments(lines(given), "set"), "config")
        except UserError:
            run_names.call(run_names.refused(config, lines(given)))
            raise
        client.create_flow_run_input(run, KEPT, resolved.model_dump_json())
    source = "YAML that was given" if "\n" in config.strip() else f"`{config.strip()}`"
    said = "".join(f"* `{line}`\n" for line in lines(given))
    begin = f"Set on top of {source}:\n\n{said}" if said else f"As in {source}.\n"
    page = f"{begin}\n````yaml\n{as_yaml(resolved)}````\n"
    create_markdown_artifact(page, KEPT, "The whole configuration")
    return resolved


def lines(given: str) -> list[str]:
    """The settings of a form, one a line, without empty ones."""
    return [line.strip() for line in given.splitlines() if line.strip()]


def settings(overrides: Sequence[str], limit: int | None = None) -> str:
    """The settings of a command as a form has them: the run's name is made of them. The configuration has them already.

    Args:
        overrides: of `--set`. One over several lines is left out.
        limit: of `--limit`.
    """
    more = [] if limit is None else [f"evaluate.limit={limit}"]
    return "\n".join(line for line in [*overrides, *more] if "\n" not in line)


def text(config: Config) -> str:
    """A configuration that is known already, as a form takes it."""
    return as_yaml(config, whole=False)


def part(start_at: First, stop_after: Last, refresh: Sequence[Label], reuse_run: str) -> Partial:
    """The part of a pipeline that a form asks for."""
    first = None if start_at == BEGINNING else start_at
    last = None if stop_after == END else stop_after
    return Partial(first, last, tuple(refresh), reuse_run.strip() or None)
