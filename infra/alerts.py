"""Tells somebody when a night went wrong or warned: a Prefect automation that calls a webhook.

    PREFECT_API_URL=... SIF_ALERT_URL=https://hooks.slack.com/services/... python -m infra.alerts    # as `make deploy`

The address is a secret (who has it can write there): it is read from SIF_ALERT_URL when deployments are registered,
and kept in a block, never in a parameter. May be repeated: block and automation are updated in place.
"""

from __future__ import annotations

import os

from prefect.automations import AutomationCore, EventTrigger
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import Posture

URL = "SIF_ALERT_URL"
BLOCK = "sif-alert"
NAME = "a night went wrong"
DEPLOYMENT = "nightly"
# Names of states. Late: no worker took it. UserError: a mistake of the user's ended it (tasks/runtime/end_states.py). From
# Regressed on they are flows/nightly.py's own; their messages say what fell and by how much.
WRONG = (
    "Failed",
    "UserError",
    "Crashed",
    "TimedOut",
    "Late",
    "Regressed",
    "NotRun",
    "Inconclusive",
    "Warned",
)
# One line for people under `text`, the field that Slack's incoming webhooks show; the rest is for programs.
PAYLOAD = """{
 "text": {{ (deployment.name ~ " " ~ flow_run.name ~ ": " ~ flow_run.state.name ~ ". " ~ (flow_run.state.message or "") ~ " " ~ (flow_run|ui_url)) | tojson }},
 "deployment": {{ deployment.name | tojson }},
 "run": {{ flow_run.id | string | tojson }},
 "state": {{ flow_run.state.name | tojson }},
 "message": {{ (flow_run.state.message or "") | tojson }},
 "url": {{ flow_run|ui_url | tojson }}
}"""


def register(client: SyncPrefectClient) -> str:
    """Registers or renews the automation; what was done, in a sentence."""
    url = os.environ.get(URL)
    if not url:
        return f"alerts: {URL} is not set: nobody is told of a failed night by this command"
    webhook = Webhook(url=url, headers={"Content-Type": "application/json"})
    block = webhook.save(BLOCK, overwrite=True, _sync=True)
    automation = AutomationCore(
        name=NAME,
        description=f"Calls the webhook of block {BLOCK}",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{state}" for state in WRONG},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "deployment", "prefect.resource.name": DEPLOYMENT},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[CallWebhook(block_document_id=block, payload=PAYLOAD)],
    )
    for known in client.read_automations_by_name(NAME):
        client.update_automation(known.id, automation)
        return f"alerts: {NAME!r} is renewed"
    client.create_automation(automation)
    return f"alerts: {NAME!r} is registered"


if __name__ == "__main__":
    with get_client(sync_client=True) as orchestration:
        print(register(orchestration))
