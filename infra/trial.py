"""A test message to the webhook of alerts, before it is relied on.

Prefect counts a webhook's call as done whatever the answer's status is, and does not call again. An address that nobody
has at the other end (404, 403) would be found out by the alert that does not come. The message is sent from here, as the
server will send its own: the same template, no proxy, five seconds, no redirects.
"""

from __future__ import annotations

import os
import re
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import jinja2

from sifthinker.core.errors import UserError

VARIABLE = "SIF_ALERT_TEST"
WANTED = ("new", "always", "never")
SAYS = "This is a test message of `make deploy`: alerts of runs arrive here. Nothing went wrong."
SHOWN = 200  # characters of an answer, in the message of an error


def wanted() -> str:
    """When a test message is sent, as SIF_ALERT_TEST says.

    Raises:
        UserError: it says something else.
    """
    said = os.environ.get(VARIABLE) or WANTED[0]
    if said not in WANTED:
        raise UserError(f"{VARIABLE}: {said!r} is none of {', '.join(WANTED)}")
    return said


def body(template: str) -> str:
    """A test message in the format of an alert.

    Args:
        template: of an alert's body
    """
    nothing = "00000000-0000-0000-0000-000000000000"
    state = SimpleNamespace(name="Test", message=SAYS)
    run = {"id": nothing, "name": "test", "state": state, "expected_start_time": "", "work_pool_name": ""}
    return (
        jinja2.Environment(autoescape=False)
        .from_string(template)
        .render(
            deployment=SimpleNamespace(name="sifthinker"),
            flow=SimpleNamespace(name="test"),
            flow_run=SimpleNamespace(**run, infrastructure_pid=""),
        )
    )


def send(url: str, message: str) -> int:
    """Sends a message; the status of the answer.

    Raises:
        UserError: nobody answers, or the answer is not one of success. The address is a secret, and not shown.
    """
    todo = f"correct SIF_ALERT_URL, or set {VARIABLE}=never to register it without a test"
    # A transport of its own: with it httpx takes no proxy from the environment, as Prefect's webhook.
    with httpx.Client(transport=httpx.HTTPTransport()) as client:
        try:
            answer = client.post(url, content=message, headers={"Content-Type": "application/json"})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UserError(
                f"the webhook of SIF_ALERT_URL was not reached ({type(error).__name__}: {error}). Alerts use no proxy. "
                f"No alert is registered or changed: {todo}"
            ) from error
    if not answer.is_success:
        said = without(url, " ".join(answer.text.split()))[:SHOWN]
        raise UserError(
            f"the webhook of SIF_ALERT_URL answered a test message with {answer.status_code} {answer.reason_phrase}"
            f"{f': {said}' if said else ''}. No alert is registered or changed: {todo}"
        )
    return answer.status_code


def without(url: str, text: str) -> str:
    """A text without the secret parts of an address: some servers say in an error what they were asked for."""
    of = urlsplit(url)
    parts = {part for part in re.split(r"[/&=]", f"{of.path}/{of.query}") if len(part) > 3}
    for part in sorted(parts, key=len, reverse=True):
        text = text.replace(part, "***")
    return text
