"""`sif compare` and its flow on a real Prefect server: what the UI shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from typer.testing import CliRunner

from flows.commands import main
from flows.compare import compare
from sifthinker.store.artifacts import Store
from tests import nights

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_a_comparison_is_an_artifact_of_the_ui_from_the_command_and_from_a_run_of_its_own(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path)
    for key, verdicts in (("aa", [1.0] * 40), ("bb", [0.0] * 20 + [1.0] * 20)):
        nights.evaluated(store, key, {"vstar": verdicts})
    names = ["evaluate/aa", "evaluate/bb"]
    done = CliRunner().invoke(main.app, ["compare", *names, "--store", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "| vstar | 100.0 | 50.0 | -50.0 |" in done.output
    state = compare(names, tmp_path, return_state=True)
    page = Path(state.result())
    assert "20 / 0" in page.read_text()
    with get_client(sync_client=True) as client:
        key = ArtifactFilter(key=ArtifactFilterKey(any_=["comparison"]))
        shown = client.read_artifacts(artifact_filter=key)
    shown = [artifact for artifact in shown if "evaluate/aa" in str(artifact.data)]  # not of other tests
    assert len(shown) == 2 and all("**differs**" in str(artifact.data) for artifact in shown)
    assert all(artifact.flow_run_id for artifact in shown)
    refused = compare(["evaluate/aa", "nothing"], tmp_path, return_state=True)
    assert refused.is_failed() and "'nothing' is no evaluated run" in str(refused.message)
