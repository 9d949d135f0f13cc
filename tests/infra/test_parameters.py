"""`make deploy` leaves the parameters that people have set in deployments, and says so."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.exceptions import ObjectNotFound

from infra import parameters
from sifthinker.core.errors import UserError

NIGHT = "nightly/nightly"


class Server:
    """One deployment and the variables of a server, with what registering does to it."""

    def __init__(self, fields: str = "config set tier") -> None:
        self.there: Any = None
        self.variables: dict[str, Any] = {}
        self.fields = fields.split()

    def read_deployment_by_name(self, name: str) -> Any:
        if self.there is None:
            raise ObjectNotFound(ValueError(name))
        return self.there

    def update_deployment(self, deployment: Any, update: Any) -> None:
        assert deployment == self.there.id and update.model_fields_set == {"parameters"}
        self.there.parameters = update.parameters

    def read_variable_by_name(self, name: str) -> Any:
        return self.variables.get(name)

    def create_variable(self, variable: Any) -> None:
        assert variable.name not in self.variables
        self.variables[variable.name] = variable

    def update_variable(self, variable: Any) -> None:
        assert variable.name in self.variables
        self.variables[variable.name] = variable

    def register(self, of_file: Mapping[str, Any]) -> list[str]:
        """`make deploy` with a version of prefect.yaml; what it says of parameters."""
        client: Any = self
        entries = {NIGHT: {"parameters": dict(of_file)}}
        kept = parameters.found(client, entries)
        schema = {"properties": {key: {} for key in self.fields}}
        known = self.there.id if self.there else uuid4()
        self.there = SimpleNamespace(
            id=known, parameters=dict(of_file), parameter_openapi_schema=schema
        )  # as Prefect's command does
        said = list(parameters.restore(client, kept))
        parameters.remember(client, entries)
        return said

    def edit(self, **values: Any) -> None:
        self.there.parameters |= values


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(parameters.VARIABLE, raising=False)


def test_what_somebody_set_stays_each_time_and_is_told_with_the_way_back() -> None:
    server = Server()
    assert server.register({"config": "nightly"}) == []
    server.edit(config="mine", set="evaluate.limit=10")
    for _ in range(2):
        said = server.register({"config": "nightly"})
        assert server.there.parameters == {"config": "mine", "set": "evaluate.limit=10"}
        assert said == [
            f'{NIGHT}: the parameter config="mine", which somebody set, stays (prefect.yaml has "nightly"; '
            "`SIF_DEPLOY_PARAMETERS=file make deploy` goes back)",
            f'{NIGHT}: the parameter set="evaluate.limit=10", which somebody set, stays (not in prefect.yaml; '
            "`SIF_DEPLOY_PARAMETERS=file make deploy` goes back)",
        ]


def test_a_new_version_of_the_file_changes_what_nobody_set() -> None:
    server = Server()
    server.register({"config": "nightly", "tier": "quick"})
    server.edit(tier="weekly")
    server.register({"config": "nightly-2", "tier": "quick"})
    assert server.there.parameters == {"config": "nightly-2", "tier": "weekly"}


def test_a_deployment_of_an_earlier_version_of_this_program_keeps_what_differs() -> None:
    server = Server()
    server.register({"config": "nightly"})
    server.variables.clear()
    server.edit(config="mine")
    server.register({"config": "nightly"})
    assert server.there.parameters == {"config": "mine"}


def test_the_file_comes_back_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    server.register({"config": "nightly"})
    server.edit(config="mine")
    monkeypatch.setenv(parameters.VARIABLE, "file")
    assert server.register({"config": "nightly"}) == []
    monkeypatch.delenv(parameters.VARIABLE)
    assert server.register({"config": "nightly"}) == [] and server.there.parameters == {"config": "nightly"}
    monkeypatch.setenv(parameters.VARIABLE, "files")
    with pytest.raises(UserError, match="SIF_DEPLOY_PARAMETERS: 'files' is not 'file'"):
        server.register({"config": "nightly"})


def test_a_parameter_that_the_flow_no_longer_has_goes_and_is_named() -> None:
    server = Server()
    server.register({"config": "nightly"})
    server.edit(tier="weekly")
    server.fields.remove("tier")
    [said] = server.register({"config": "nightly"})
    assert server.there.parameters == {"config": "nightly"}
    assert said == f'{NIGHT}: the parameter tier="weekly" is gone: this version of the flow has none'


def test_a_damaged_note_of_what_was_registered_loses_nothing() -> None:
    server = Server()
    server.register({"config": "nightly"})
    server.variables[parameters.REGISTERED].value = "{broken"
    server.edit(config="mine")
    server.register({"config": "nightly"})
    assert server.there.parameters == {"config": "mine"}
