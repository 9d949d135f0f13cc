import logging
import re
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import httpx
import pytest
from prefect.exceptions import TerminationSignal
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES

from sifthinker.llm.call_counts import Counts
from tasks.runtime import endpoint, ui_artifacts
from tasks.runtime.elsewhere import Elsewhere
from tasks.runtime.progress import End, Progress
from tasks.runtime.progress import how as ended


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


@pytest.fixture
def artifacts(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[float, str]]]:
    """Percent and description of each artifact, in the order in which the UI gets them."""
    kept: dict[str, list[tuple[float, str]]] = {}

    def create(percent: float, description: str) -> str:
        name = f"artifact {len(kept)}"
        kept[name] = [(percent, description)]
        return name

    monkeypatch.setattr(ui_artifacts, "create_progress_artifact", create)
    monkeypatch.setattr(
        ui_artifacts,
        "update_progress_artifact",
        lambda name, percent, text: kept[name].append((percent, text)),
    )
    return kept


@pytest.mark.parametrize("how", ["completed", "failed", "stopped"])
def test_the_artifact_says_rate_and_time_left_and_at_the_end_that_nothing_more_comes(
    artifacts: dict[str, list[tuple[float, str]]], how: End
) -> None:
    progress = Progress("depth", 8, logging.getLogger("test"), every=0)
    progress.add(2, "a note")
    progress.add(2)
    progress.end(how)
    [(first, what), (half, _), (last, ended)] = artifacts["artifact 0"]
    assert (first, half, last) == (25, 50, 100 if how == "completed" else 50)
    assert what.startswith("Progress of depth: 2 of 8, ") and what.endswith(" s left | a note")
    why = ": its run was cancelled or told to end" if how == "stopped" else ""
    assert re.fullmatch(rf"Progress of depth: {how} after \d+ s, 4 of 8{why}", ended)


def test_the_last_word_is_tried_although_the_server_was_away(
    artifacts: dict[str, list[tuple[float, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Progress("depth", 8, logging.getLogger("test"), every=0)
    progress.add(2)
    monkeypatch.setattr(ui_artifacts, "_quiet_until", time.monotonic() + 60)
    progress.add(2)
    progress.stopping()
    progress.end("stopped")
    first, stopping, last = (said for _, said in artifacts["artifact 0"])
    assert "2 of 8" in first and "stopping at 4 of 8" in stopping and "stopped after" in last


@pytest.mark.parametrize(
    ("error", "how"),
    [
        (None, "completed"),
        (ValueError(), "failed"),
        (TerminationSignal(signal.SIGTERM), "stopped"),
        (KeyboardInterrupt(), "stopped"),
    ],
)
def test_what_ends_a_run_stops_its_stage_and_any_other_error_fails_it(
    error: BaseException | None, how: str
) -> None:
    assert ended(error) == how


def test_where_nothing_was_shown_nothing_is_ended(artifacts: dict[str, list[tuple[float, str]]]) -> None:
    for total in (8, None):
        progress = Progress("depth", total, logging.getLogger("test"))
        progress.add(8)  # sooner than anybody looks
        progress.end("completed")
    assert not artifacts


def test_a_stage_that_asks_is_shown_from_its_first_rows_to_its_last_counts(
    tmp_path: Path, artifacts: dict[str, list[tuple[float, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "EVERY", 0.01)
    counts = Counts(0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, "", 0.0, None)
    looked = threading.Event()

    def said_percent() -> float:
        return artifacts["artifact 0"][-1][0] if artifacts else 0.0

    def look() -> Counts:
        if counts.rows_done == 3 and said_percent() == 100 * counts.rows_done / counts.rows_total:
            looked.set()
        return counts

    order = SimpleNamespace(label="evaluate")
    job: Any = SimpleNamespace(order=order, log=logging.getLogger("test"), notes={}, elsewhere=Elsewhere())
    job.work = tmp_path
    with endpoint.watched(job, look, lambda now: f"{now.rows_done}/{now.rows_total} rows"):
        counts = Counts(4, 2, 1, 3, 0, 0, 1, 30, 3, 0.0, "", 60.0, 3.0)
        assert looked.wait(20)
        looked.clear()
        # A shard that begins later adds its rows.
        counts = Counts(6, 2, 1, 3, 0, 0, 1, 30, 3, 0.0, "", 60.0, 3.0)
        assert looked.wait(20)
        counts = Counts(6, 5, 1, 6, 0, 0, 0, 60, 6, 0.0, "", 60.0, 0.0)
    said = artifacts["artifact 0"]
    assert said[0] == (75, "Progress of evaluate: 3/4 rows"), "no second clock beside the engine's"
    assert (50, "Progress of evaluate: 3/6 rows") in said
    assert said[-1][0] == 100 and "evaluate: completed after" in said[-1][1]
    assert said[-1][1].endswith(" s, 6/6 rows")
    assert job.notes["calls"] == 6
