import logging
from unittest.mock import MagicMock

import httpx
import pytest
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES

from tasks.runtime import ui_artifacts


def test_nothing_is_tried_again_and_a_page_is_renewed_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's client would wait for minutes, and the stage with it."""
    monkeypatch.setattr(ui_artifacts, "_quiet_until", 0.0)
    seen = []
    client = MagicMock()
    client.__enter__().update_artifact = lambda artifact_id, artifact: seen.append(artifact_id)
    monkeypatch.setattr(ui_artifacts, "get_client", lambda sync_client: client)

    def create(text: str, key: str, description: str) -> str:
        seen.append(PREFECT_CLIENT_MAX_RETRIES.value())
        return "it"

    monkeypatch.setattr(ui_artifacts, "create_markdown_artifact", create)
    artifact = ui_artifacts.page("one", "grpo-training", "grpo under way")
    assert ui_artifacts.page("two", "grpo-training", "grpo under way", artifact) == artifact == "it"
    assert seen == [0, "it"]


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("refused"), RuntimeError("Failed to reach API at http://127.0.0.1:1/api/")]
)
def test_a_server_that_is_away_costs_the_picture_and_never_the_stage(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def away(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ui_artifacts, "_quiet_until", 0.0)
    for name in ("create_markdown_artifact", "create_progress_artifact", "update_progress_artifact"):
        monkeypatch.setattr(ui_artifacts, name, away)
    with caplog.at_level(logging.WARNING):
        assert ui_artifacts.markdown("text", "key", "A summary") is None
        assert ui_artifacts.progress(10.0, "Progress of depth") is None
        # Not asked again for a minute: each try may take as long as a hanging server lets it.
        assert ui_artifacts.progress(20.0, "Progress of depth", "artifact") == "artifact"
        assert ui_artifacts.page("text", "key", "grpo under way", "artifact") == "artifact"
        assert len(caplog.records) == 1 and "A summary: could not be shown" in caplog.text
        monkeypatch.setattr(ui_artifacts, "_quiet_until", 0.0)
        assert ui_artifacts.progress(30.0, "Progress of depth", "artifact") == "artifact"
        assert len(caplog.records) == 2, "and then it is"


@pytest.mark.parametrize("error", [ValueError("key"), RuntimeError("no running event loop")])
def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ui_artifacts, "create_markdown_artifact", wrong)
    with pytest.raises(type(error), match=str(error)):
        ui_artifacts.markdown("text", "Not A Key", "A summary")
