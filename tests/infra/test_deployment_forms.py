"""The form of each deployment, as the UI renders it."""

from typing import Any

import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from tests.infra.conftest import ROOT

FILE = yaml.safe_load((ROOT / "infra/prefect.yaml").read_text(encoding="utf-8"))
ENTRYPOINTS = sorted({deployment["entrypoint"] for deployment in FILE["deployments"]})


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_the_form_explains_every_field(entrypoint: str) -> None:
    """What the UI renders, of each flow that is deployed: its parameters, and the fields of nested sections."""
    schema = parameter_schema(load_flow_from_entrypoint(str(ROOT / entrypoint))).model_dump()
    sections = {"flow": schema, **schema["definitions"]}
    unexplained = [
        f"{section}.{name}"
        for section, definition in sections.items()
        for name, field in definition.get("properties", {}).items()
        if not field.get("description") and not _section(field, schema["definitions"])
    ]
    assert not unexplained
    described = [
        field.get("description", "")
        for of in sections.values()
        for field in of.get("properties", {}).values()
    ]
    assert not [text for text in described if "<" in text], (
        "the form takes it for HTML, and shows nothing of it"
    )
    undefined = [
        f"{section}.{name}"
        for section, definition in sections.items()
        for name, field in definition.get("properties", {}).items()
        if "default" not in field and name not in definition.get("required", ())
    ]
    assert not undefined, "neither required nor with a default that the form could show"


def _section(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What the section says of itself that a field is: the form shows it at the field."""
    refers = [part["$ref"] for part in (field, *field.get("allOf", ())) if "$ref" in part]
    return "".join(definitions[name.split("/")[-1]].get("description", "") for name in refers)
