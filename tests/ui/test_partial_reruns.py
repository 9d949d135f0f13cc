"""Partial reruns through the real UI in a real browser; what ran and what was cached is read from the server."""

from __future__ import annotations

import shutil
from typing import get_args

import psutil
import pytest

from flows.labels import Label
from tests.ui.conftest import Site, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
# No passes over the dead letters, and no model before the last one is evaluated: no such stages.
LABELS = [label for label in get_args(Label) if label not in ("retry", "evaluate-base", "evaluate-sft")]


def test_another_learning_rate_from_the_form_runs_grpo_and_what_follows(site: Site) -> None:
    site.form("reproduce")
    rate = site.field("Grpo", "Learning Rate").locator("input")
    assert float(rate.input_value()) == 1e-5
    rate.fill("0.00003")
    site.choose("start_at", "grpo")
    site.look("form")
    run = site.submit()
    assert site.ended(run)["type"] == "COMPLETED"
    stages = site.stages(run)
    after = LABELS.index("grpo")
    assert {stages[label] for label in LABELS[:after]} == {"Cached"}
    assert {stages[label] for label in LABELS[after:]} == {"Completed"}
    seen = site.look("run", f"runs/flow-run/{run}")
    assert "Completed" in seen


def test_stop_after_and_refresh_from_the_form(site: Site) -> None:
    site.form("reproduce")
    site.choose("stop_after", "expand")
    site.choose("refresh", "ingest")
    run = site.submit()
    assert site.ended(run)["type"] == "COMPLETED"
    assert list(site.stages(run)) == LABELS[: LABELS.index("expand") + 1]
    assert site.ran(run) == {"ingest"}  # made again, with the same digest: what follows stays


def test_an_earlier_runs_data_is_reused_from_the_form(site: Site) -> None:
    """With another seed of the scenes every stage would run; those before start_at are the earlier run's."""
    site.form("reproduce")
    site.field("Scenes", "Seed").locator("input").fill("9")
    site.choose("start_at", "subset")
    site.choose("stop_after", "subset")
    field = site.field("reuse_run")
    field.get_by_role("button").filter(has_text="str").click()
    field.locator("input, textarea").fill("smoke")
    run = site.submit()
    assert site.ended(run)["type"] == "COMPLETED"
    assert set(site.stages(run)) == {"subset"}


def test_retry_of_a_failed_run_takes_the_finished_stages_from_the_cache(site: Site) -> None:
    """The folder of a stage's artifacts is in the way of a file: a cause that is taken away before the retry."""
    site.form("reproduce")
    site.field("Ingest", "Total").locator("input").fill("11")
    site.choose("stop_after", "expand")
    kept = site.store / "expand.kept"
    (site.store / "expand").rename(kept)
    (site.store / "expand").write_text("in the way")
    try:
        run = site.submit()
        assert site.ended(run)["type"] == "FAILED"
    finally:
        (site.store / "expand").unlink()
        shutil.move(kept, site.store / "expand")
    assert site.stages(run)["ingest"] == "Completed"
    site.look("failed", f"runs/flow-run/{run}")
    site.page.get_by_role("button", name="Retry").first.click()
    site.page.get_by_role("button", name="Retry").last.click()
    wait_for(lambda: site.ask("GET", f"flow_runs/{run}")["state"]["type"] == "COMPLETED", 900)
    assert site.stages(run)["ingest"] == "Cached"
    assert site.stages(run)["expand"] == "Completed"


def test_cancel_in_the_ui_ends_the_training_too(site: Site) -> None:
    site.form("reproduce")
    site.field("Sft", "Learning Rate").locator("input").fill("0.0002")
    site.field("Sft", "Max Steps").locator("input").fill("500")
    site.choose("stop_after", "sft")
    run = site.submit()
    child = wait_for(lambda: training(site), 900)
    site.look("cancel", f"runs/flow-run/{run}")
    site.page.get_by_role("button", name="Cancel").first.click()
    site.page.get_by_role("button", name="Confirm").click()
    assert site.ended(run)["type"] == "CANCELLED"
    wait_for(lambda: not psutil.pid_exists(child), 120)


def training(site: Site) -> int | None:
    """The process id of a training on this site's store."""
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        if "sifthinker.training.sft" in words and str(site.store) in words[-1]:
            return int(process.info["pid"])
    return None
