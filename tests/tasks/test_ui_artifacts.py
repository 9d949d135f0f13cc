import logging

import httpx
import pytest

from tasks.runtime import ui_artifacts


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("refused"), RuntimeError("Failed to reach API at http://127.0.0.1:1/api/")]
)
def test_a_server_that_is_away_costs_the_picture_and_never_the_stage(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def away(*_: object, **__: object) -> None:
        raise error

    for name in ("create_markdown_artifact", "create_progress_artifact", "update_progress_artifact"):
        monkeypatch.setattr(ui_artifacts, name, away)
    with caplog.at_level(logging.WARNING):
        assert ui_artifacts.markdown("text", "key", "A summary") is None
        assert ui_artifacts.progress(10.0, "Progress of depth") is None
        assert (
            ui_artifacts.progress(20.0, "Progress of depth", "artifact") == "artifact"
        )  # tried again at the next row
    assert len(caplog.records) == 3
    assert "A summary: could not be shown" in caplog.text


@pytest.mark.parametrize("error", [ValueError("key"), RuntimeError("no running event loop")])
def test_a_mistake_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ui_artifacts, "create_markdown_artifact", wrong)
    with pytest.raises(type(error), match=str(error)):
        ui_artifacts.markdown("text", "Not A Key", "A summary")
