"""Tells people by a webhook when a run of any deployment went wrong, is late, waits, or is well again (alert_triggers.py: when).

The address is a secret (who has it can write there): it is read from SIF_ALERT_URL when deployments are registered,
and kept in a block of the server, never in a parameter. SIF_ALERT_FORMAT is `slack` or `json`; without it the address
decides. A stage in a pool is not told of by itself: the run that it belongs to ends with its message.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from prefect.automations import AutomationCore
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import CallWebhook

from infra import alert_triggers, trial
from infra.alert_triggers import SAID
from sifthinker.core.errors import UserError

URL = "SIF_ALERT_URL"
FORMAT = "SIF_ALERT_FORMAT"
BLOCK = "sif-alert"
# The bodies of the messages. The server renders them (Jinja, in a sandbox), with values that `payload` sets before them.
PLAIN = """{
 "text": {{ (line ~ " " ~ page) | tojson }},
 "outcome": {{ outcome | tojson }},
 "deployment": {{ deployment.name | tojson }},
 "flow": {{ flow.name | tojson }},
 "run": {{ flow_run.id | string | tojson }},
 "name": {{ flow_run.name | tojson }},
 "state": {{ flow_run.state.name | tojson }},
 "message": {{ said | tojson }},
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
    client: SyncPrefectClient,
    deployments: Sequence[str],
    nights: Sequence[str],
    save: Callable[[AutomationCore], str],
) -> Iterator[str]:
    """Registers the alerts for the runs of these deployments (`prefect.deployment.<id>`); what was done, a line each.

    Where the address or what is sent is new, the webhook has to answer a test message first. `nights` are those of the deployments
    that have to end before the next one is due.

    Raises:
        UserError: a variable SIF_ALERT_* cannot be used, or the webhook does not answer well.
    """
    url = os.environ.get(URL)
    if not url:
        advice = "set it to the address of a webhook, and run this again"
        yield f"alerts: {URL} is not set, so nobody is told of runs that go wrong; {advice}"
        return
    shape = form(url, os.environ.get(FORMAT, ""))
    wanted = list(alert_triggers.alerts(deployments, nights))
    yield tried(client, url, shape)
    webhook = Webhook(url=url, headers={"Content-Type": "application/json"})
    block = webhook.save(BLOCK, overwrite=True, _sync=True)
    for alert in wanted:
        call = CallWebhook(block_document_id=block, payload=payload(shape, alert.outcome, base(), alert.said))
        described = f"Calls the webhook of block {BLOCK}"
        made = AutomationCore(name=alert.name, description=described, trigger=alert.trigger, actions=[call])
        yield f"alerts, as {shape}: {save(made)}"


def tried(client: SyncPrefectClient, url: str, shape: str) -> str:
    """Sends the webhook a test message, unless the server has this address and format already; what was done.

    Raises:
        UserError: SIF_ALERT_TEST cannot be used, or the webhook does not answer well.
    """
    when = trial.wanted()
    sends = payload(shape, "flow_run.state.name", base())
    if when == "never":
        return f"alerts: the webhook was sent no test message ({trial.VARIABLE}=never)"
    if when == "new" and _known(client, url, sends):
        return f"alerts: the webhook is the one that was registered; {trial.VARIABLE}=always tests it again"
    status = trial.send(url, trial.body(sends))
    return f"alerts: the webhook answered a test message with {status}"


def _known(client: SyncPrefectClient, url: str, sends: str) -> bool:
    """Whether an earlier registration had this address and this body of messages."""
    with suppress(ValueError):  # the first time
        webhook = Webhook.load(BLOCK, _sync=True)
        actions = [
            a for one in client.read_automations_by_name(alert_triggers.WENT_WRONG) for a in one.actions
        ]
        return webhook.url.get_secret_value() == url and any(
            isinstance(action, CallWebhook) and action.payload == sends for action in actions
        )
    return False


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


def payload(shape: str, outcome: str, link: str, said: str = SAID) -> str:
    """The template of a message's body.

    Args:
        shape: a key of FORMATS
        outcome: a Jinja expression for what happened
        link: address of a run's page, without the id
        said: a Jinja expression for what is said of it
    """
    values = {
        "outcome": outcome,
        "said": said,
        "page": f"{json.dumps(link)} ~ flow_run.id",
        "line": 'deployment.name ~ ": " ~ outcome ~ ". " ~ said',
        "where": '"run " ~ flow_run.name ~ ", pool " ~ (flow_run.work_pool_name or "none")'
        ' ~ ", process " ~ (flow_run.infrastructure_pid or "none")',
    }
    return "".join(f"{{% set {name} = {value} %}}" for name, value in values.items()) + FORMATS[shape]
