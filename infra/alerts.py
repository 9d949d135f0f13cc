"""Tells people by a webhook when a run of any deployment went wrong, is late, or is well again.

The address is a secret (who has it can write there): it is read from SIF_ALERT_URL when deployments are registered,
and kept in a block of the server, never in a parameter. SIF_ALERT_FORMAT is `slack` or `json`; without it the address
decides. A stage in a pool is not told of by itself: the run that it belongs to ends with its message.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from urllib.parse import urlsplit

from prefect.automations import AutomationCore, EventTrigger
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import Posture

from sifthinker.core.errors import UserError

URL = "SIF_ALERT_URL"
FORMAT = "SIF_ALERT_FORMAT"
BLOCK = "sif-alert"
SCHEDULED = "prefect.tag.auto-scheduled"  # Prefect's tag of runs that a schedule made
# Names of states. From Regressed on they are flows/nightly.py's own; their messages say what fell and by how much.
# Skipped: the night evaluated nothing, which nobody would hear of otherwise where it waited for the night before it.
# UserError: a mistake of the user's ended it (tasks/runtime/end_states.py).
WRONG = (
    *("Failed", "UserError", "Crashed", "TimedOut"),
    *("Regressed", "NotRun", "Inconclusive", "Warned", "Skipped"),
)
WELL = ("Completed",)
REMEMBERED = timedelta(days=30)  # how long after a run went wrong the next good one is told of
# The bodies of the messages. The server renders them (Jinja, in a sandbox), with values that `payload` sets before them.
PLAIN = """{
 "text": {{ (line ~ " " ~ page) | tojson }},
 "outcome": {{ outcome | tojson }},
 "deployment": {{ deployment.name | tojson }},
 "flow": {{ flow.name | tojson }},
 "run": {{ flow_run.id | string | tojson }},
 "name": {{ flow_run.name | tojson }},
 "state": {{ flow_run.state.name | tojson }},
 "message": {{ (flow_run.state.message or "") | tojson }},
 "pool": {{ (flow_run.work_pool_name or "") | tojson }},
 "process": {{ (flow_run.infrastructure_pid or "") | tojson }},
 "due": {{ flow_run.expected_start_time | string | tojson }},
 "url": {{ page | tojson }}
}"""
# https://docs.slack.dev/messaging/formatting-message-text: & < > are markup. A section holds 3,000 characters,
# and a character is written with five at most.
ESCAPED = 'replace("&", "&amp;") | replace("<", "&lt;") | replace(">", "&gt;")'
SLACK = f"""{{
 "text": {{{{ (line | truncate(590, true) | {ESCAPED}) | tojson }}}},
 "blocks": [
  {{"type": "section", "text": {{"type": "mrkdwn", "text": {{{{ (line | truncate(590, true) | {ESCAPED}) | tojson }}}}}}}},
  {{"type": "context", "elements": [
   {{"type": "mrkdwn", "text": {{{{ (where | truncate(390, true) | {ESCAPED}) | tojson }}}}}},
   {{"type": "mrkdwn", "text": {{{{ ("<" ~ page ~ "|Open the run>") | tojson }}}}}}
  ]}}
 ]
}}"""
FORMATS = {"json": PLAIN, "slack": SLACK}


def told(
    client: SyncPrefectClient, deployments: Sequence[str], save: Callable[[AutomationCore], str]
) -> Iterator[str]:
    """Registers the alerts for the runs of these deployments (`prefect.deployment.<id>`); what was done, a line each.

    Raises:
        UserError: SIF_ALERT_URL or SIF_ALERT_FORMAT cannot be used.
    """
    url = os.environ.get(URL)
    if not url:
        advice = "set it to the address of a webhook, and run this again"
        yield f"alerts: {URL} is not set, so nobody is told of runs that go wrong; {advice}"
        return
    shape = form(url, os.environ.get(FORMAT, ""))
    webhook = Webhook(url=url, headers={"Content-Type": "application/json"})
    block = webhook.save(BLOCK, overwrite=True, _sync=True)
    of_ours = {"prefect.resource.role": "deployment", "prefect.resource.id": list(deployments)}
    by_schedule = {"prefect.resource.role": "tag", "prefect.resource.id": SCHEDULED}
    events = {name: {f"prefect.flow-run.{state}" for state in states} for name, states in _STATES.items()}

    def automation(name: str, outcome: str, trigger: EventTrigger) -> AutomationCore:
        call = CallWebhook(block_document_id=block, payload=payload(shape, outcome, base()))
        return AutomationCore(
            name=name, description=f"Calls the webhook of block {BLOCK}", trigger=trigger, actions=[call]
        )

    wrong = EventTrigger(
        expect=events["wrong"],
        match_related=of_ours,
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
    )
    late = EventTrigger(
        expect=events["late"],
        match_related=[of_ours, by_schedule],
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
    )
    recovered = EventTrigger(
        after=events["wrong"],
        expect=events["well"],
        match_related=of_ours,
        for_each={"related:deployment:prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
        within=REMEMBERED,
    )
    for name, outcome, trigger in (
        ("a run went wrong", "flow_run.state.name", wrong),
        ("a scheduled run did not start", '"Late: no worker took it"', late),
        ("a deployment recovered", '"Recovered"', recovered),
    ):
        yield f"alerts, as {shape}: {save(automation(name, outcome, trigger))}"


_STATES = {"wrong": WRONG, "late": ("Late",), "well": WELL}


def form(url: str, wanted: str) -> str:
    """The format of the messages: what is wanted, else what the address asks for.

    Raises:
        UserError: it is no address, or there is no such format.
    """
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise UserError(f"{URL}: it is no address; write https://HOST/PATH")  # a secret: not shown
    if wanted and wanted not in FORMATS:
        raise UserError(f"{FORMAT}: {wanted!r} is none of {', '.join(FORMATS)}")
    return wanted or ("slack" if address.hostname == "hooks.slack.com" else "json")


def base() -> str:
    """The address of a run's page, without the run's id: as browsers reach it."""
    ui = os.environ.get("PREFECT_UI_URL") or os.environ["PREFECT_API_URL"].rstrip("/").removesuffix("/api")
    return f"{ui.rstrip('/')}/runs/flow-run/"


def payload(shape: str, outcome: str, link: str) -> str:
    """The template of a message's body.

    Args:
        shape: a key of FORMATS
        outcome: a Jinja expression for what happened
        link: address of a run's page, without the id
    """
    values = {
        "outcome": outcome,
        "page": f"{json.dumps(link)} ~ flow_run.id",
        "line": 'deployment.name ~ ": " ~ outcome ~ ". " ~ (flow_run.state.message or "")',
        "where": '"run " ~ flow_run.name ~ ", pool " ~ (flow_run.work_pool_name or "none")'
        ' ~ ", process " ~ (flow_run.infrastructure_pid or "none")',
    }
    return "".join(f"{{% set {name} = {value} %}}" for name, value in values.items()) + FORMATS[shape]
