"""Parameters of deployments that people have set on the server: registering sets them to those of prefect.yaml, this sets them back.

What was registered last is kept in a variable of the server. A value that differs from it is somebody's and stays; all others are as
prefect.yaml says, also where a new version of it says something else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentUpdate, VariableCreate, VariableUpdate
from prefect.exceptions import ObjectNotFound

from sifthinker.core.errors import UserError

REGISTERED = "sif_registered_parameters"  # the variable: by the names of deployments
VARIABLE = "SIF_DEPLOY_PARAMETERS"
OF_FILE = "file"  # its one value: nothing of people's stays
Entries = Mapping[str, Mapping[str, Any]]  # of prefect.yaml, by `flow/deployment`


@dataclass(frozen=True)
class Kept:
    """What somebody has set in a deployment."""

    name: str
    deployment: UUID
    values: Mapping[str, Any]


def found(client: SyncPrefectClient, entries: Entries) -> list[Kept]:
    """What people have set, before the deployments are registered anew.

    Raises:
        UserError: SIF_DEPLOY_PARAMETERS has another value than `file`.
    """
    said = os.environ.get(VARIABLE, "")
    if said not in ("", OF_FILE):
        raise UserError(
            f"{VARIABLE}: {said!r} is not {OF_FILE!r}, which sets all parameters to those of prefect.yaml"
        )
    if said:
        return []
    known = _registered(client)
    kept = []
    for name, entry in entries.items():
        try:
            there = client.read_deployment_by_name(name)
        except ObjectNotFound:  # the first time
            continue
        before = known.get(
            name, entry.get("parameters", {})
        )  # of an earlier version of this program: not known
        values = {key: value for key, value in there.parameters.items() if before.get(key, ...) != value}
        if values:
            kept.append(Kept(name, there.id, values))
    return kept


def restore(client: SyncPrefectClient, kept: Sequence[Kept]) -> Iterator[str]:
    """Sets what people had set, after the deployments were registered; what was done, a line each."""
    for one in kept:
        try:
            there = client.read_deployment_by_name(one.name)
        except ObjectNotFound:  # somebody has removed it since an interrupted registration
            continue
        ours = dict(there.parameters)
        fields = (there.parameter_openapi_schema or {}).get("properties", {})
        values = {key: value for key, value in one.values.items() if key in fields}
        for key in one.values.keys() - values.keys():
            yield f"{one.name}: the parameter {key}={_shown(one.values[key])} is gone: this version of the flow has none"
        if {**ours, **values} != ours:
            client.update_deployment(one.deployment, DeploymentUpdate(parameters={**ours, **values}))
        for key, value in values.items():
            of_file = f"prefect.yaml has {_shown(ours[key])}" if key in ours else "not in prefect.yaml"
            back = f"`{VARIABLE}={OF_FILE} make deploy` goes back"
            yield f"{one.name}: the parameter {key}={_shown(value)}, which somebody set, stays ({of_file}; {back})"


def remember(client: SyncPrefectClient, entries: Entries) -> None:
    """Notes what prefect.yaml says, so that the next registration knows what people have changed since."""
    value = json.dumps({name: entry.get("parameters", {}) for name, entry in entries.items()}, sort_keys=True)
    if client.read_variable_by_name(REGISTERED):
        client.update_variable(VariableUpdate(name=REGISTERED, value=value))
    else:
        client.create_variable(VariableCreate(name=REGISTERED, value=value))


def _registered(client: SyncPrefectClient) -> dict[str, dict[str, Any]]:
    variable = client.read_variable_by_name(REGISTERED)
    try:
        return dict(json.loads(str(variable.value))) if variable else {}
    except ValueError:  # somebody has changed it
        return {}


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
